//! `docs/grpc.md`: the comments of `proto/`, laid out for readers.

use crate::comments::{
    Comments, ENUM, FIELD, Facts, MESSAGE, METHOD, NESTED_ENUM, NESTED_MESSAGE, SERVICE, SYNTAX, VALUE,
};
use crate::contract::field_type;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// What clients read first, then operators, then the cluster's own conversations.
const ORDER: [&str; 6] =
    ["objects.proto", "observe.proto", "cluster.proto", "dispatch.proto", "relay.proto", "raft.proto"];

const HEAD: &str = "\
# The gRPC API

Generated from the comments in [proto/](../proto) by a test: `UPDATE_EXPECT=1 cargo test -p protos` renews it.
[examples/](../examples) has a client in Python, Rust and Go; a Rust program takes the crate `client`, which
tries one master after the other and repeats calls. The contract every client may rely on stands in
[proto/contract.txt](../proto/contract.txt): a change that breaks it fails the build and needs a new package.

Two services of others are served beside ours: `grpc.health.v1.Health`, to callers without a certificate too
(SERVING while this master hears a leader; for each service by name, and for the empty name), and
`grpc.reflection.v1.ServerReflection`, to whoever shows a certificate of the cluster.
";

pub(crate) fn text(set: &FileDescriptorSet) -> String {
    let mut out = HEAD.to_string();
    let files = ORDER.iter().map(|name| set.file.iter().find(|file| file.name() == *name).expect("ORDER names it"));
    let ours = set.file.iter().filter(|file| file.package().starts_with("balsa.")).count();
    assert_eq!(ours, ORDER.len(), "a new file needs its place in ORDER");
    for file in files {
        conversation(file, &mut out);
    }
    out
}

fn conversation(file: &FileDescriptorProto, out: &mut String) {
    let comments = Comments::of(file);
    out.push_str(&format!("\n## {}\n\n{}\n", file.package(), comments.at(&[SYNTAX])));
    for (i, service) in (0..).zip(&file.service) {
        out.push_str(&format!("\n### service {}\n\n{}\n", service.name(), comments.at(&[SERVICE, i])));
        for (j, method) in (0..).zip(&service.method) {
            let facts = Facts::of(comments.at(&[SERVICE, i, METHOD, j]));
            let side = |streams: bool, name: &str| {
                let name = name.trim_start_matches('.');
                let name = name.strip_prefix(&format!("{}.", file.package())).unwrap_or(name);
                format!("{}{name}", if streams { "stream " } else { "" })
            };
            out.push_str(&format!(
                "\n#### {}\n\n`{}` → `{}`\n\n{}\n\n",
                method.name(),
                side(method.client_streaming(), method.input_type()),
                side(method.server_streaming(), method.output_type()),
                facts.description
            ));
            for (label, fact) in [
                ("caller", &facts.caller),
                ("roles", &facts.roles),
                ("deadline", &facts.deadline),
                ("retry", &facts.retry),
            ] {
                out.push_str(&format!("- {label}: {}\n", fact.replace('\n', " ")));
            }
        }
    }
    if !file.message_type.is_empty() {
        out.push_str("\n### messages\n");
    }
    for (i, message) in (0..).zip(&file.message_type) {
        describe(file, &comments, &[MESSAGE, i], "", message, out);
    }
    for (i, values) in (0..).zip(&file.enum_type) {
        enumerate(&comments, &[ENUM, i], values.name(), values, out);
    }
}

fn describe(
    file: &FileDescriptorProto,
    comments: &Comments,
    path: &[i32],
    scope: &str,
    message: &DescriptorProto,
    out: &mut String,
) {
    // The entries that stand for a map on the wire are told with their field.
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let name = format!("{scope}{}", message.name());
    out.push_str(&format!("\n**{name}**"));
    let about = comments.at(path);
    if !about.is_empty() {
        out.push_str(&format!(" {}", about.replace('\n', " ")));
    }
    out.push_str(match message.field.is_empty() {
        true => " (no fields)\n",
        false => "\n\n| | field | type | |\n| --- | --- | --- | --- |\n",
    });
    for (i, field) in (0..).zip(&message.field) {
        let map = message.nested_type.iter().find(|nested| {
            nested.options.as_ref().is_some_and(|options| options.map_entry())
                && field.type_name().ends_with(&format!(".{}", nested.name()))
        });
        let kind = match map {
            Some(entry) => format!("map of {} to {}", field_type(&entry.field[0]), field_type(&entry.field[1])),
            None => field_type(field).replace(&format!("{}.", file.package()), ""),
        };
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let oneof = oneof.and_then(|i| message.oneof_decl.get(i as usize));
        let within = oneof.map_or(String::new(), |oneof| format!("One of `{}`. ", oneof.name()));
        let about = comments.at(&[path, &[FIELD, i]].concat()).replace('\n', " ");
        let row = format!("| {} | {} | {kind} | {within}{about}", field.number(), field.name());
        out.push_str(&format!("{} |\n", row.trim_end()));
    }
    for (i, nested) in (0..).zip(&message.nested_type) {
        describe(file, comments, &[path, &[NESTED_MESSAGE, i]].concat(), &format!("{name}."), nested, out);
    }
    for (i, values) in (0..).zip(&message.enum_type) {
        let path = [path, &[NESTED_ENUM, i]].concat();
        enumerate(comments, &path, &format!("{name}.{}", values.name()), values, out);
    }
}

fn enumerate(comments: &Comments, path: &[i32], name: &str, values: &EnumDescriptorProto, out: &mut String) {
    out.push_str(&format!("\n**{name}**\n\n| | value | |\n| --- | --- | --- |\n"));
    for (i, value) in (0..).zip(&values.value) {
        let about = comments.at(&[path, &[VALUE, i]].concat()).replace('\n', " ");
        let row = format!("| {} | {} | {about}", value.number(), value.name());
        out.push_str(&format!("{} |\n", row.trim_end()));
    }
}
