//! The wire contract: every message, field, number, type and RPC as a line of text, and what a change of
//! it means to clients that were built against it. Shared by the build script, which refuses a breaking
//! change, and by the test that renews `proto/contract.txt`.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use std::collections::BTreeSet;

pub const HEAD: &str = "\
# What clients of every released version rely on. The build fails when a line here no longer holds.
# Written by a test: UPDATE_EXPECT=1 cargo test -p protos adds what is new; nothing else may change.
";

/// The lines of our own packages, file by file in their order.
pub fn lines(set: &FileDescriptorSet) -> Vec<String> {
    set.file.iter().filter(|file| file.package().starts_with("balsa.")).flat_map(file_lines).collect()
}

fn file_lines(file: &FileDescriptorProto) -> Vec<String> {
    let package = file.package();
    let mut lines = Vec::new();
    for service in &file.service {
        for method in &service.method {
            let side = |streams: bool, name: &str| {
                format!("{}{}", if streams { "stream " } else { "" }, name.trim_start_matches('.'))
            };
            lines.push(format!(
                "{package}.{}: rpc {} ({}) returns ({})",
                service.name(),
                method.name(),
                side(method.client_streaming(), method.input_type()),
                side(method.server_streaming(), method.output_type()),
            ));
        }
    }
    file.message_type.iter().for_each(|message| message_lines(package, message, &mut lines));
    file.enum_type.iter().for_each(|values| enum_lines(package, values, &mut lines));
    lines
}

fn message_lines(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    lines.push(format!("{name}: message"));
    for field in &message.field {
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let oneof = oneof.and_then(|i| message.oneof_decl.get(i as usize)).map_or("", |oneof| oneof.name());
        let within = if oneof.is_empty() { String::new() } else { format!(" in {oneof}") };
        lines.push(format!("{name}: field {} {} {}{within}", field.number(), field.name(), field_type(field)));
    }
    // Ranges end before `end`.
    for range in &message.reserved_range {
        lines.extend((range.start()..range.end()).map(|number| format!("{name}: reserved {number}")));
    }
    message.nested_type.iter().for_each(|nested| message_lines(&name, nested, lines));
    message.enum_type.iter().for_each(|values| enum_lines(&name, values, lines));
}

fn enum_lines(scope: &str, values: &EnumDescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", values.name());
    for value in &values.value {
        lines.push(format!("{name}: value {} {}", value.number(), value.name()));
    }
}

/// As a .proto file says it; maps appear as the repeated entries they are on the wire.
pub fn field_type(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').to_string(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => format!("repeated {name}"),
        (_, true) => format!("optional {name}"),
        (_, false) => name,
    }
}

/// What no longer holds of `committed`, each with what stands there now.
pub fn broken(committed: &str, now: &[String]) -> Vec<String> {
    let present: BTreeSet<&str> = now.iter().map(String::as_str).collect();
    let lost = committed.lines().filter(|line| !line.starts_with('#') && !line.is_empty() && !present.contains(line));
    let tell = |line: &str| match now.iter().find(|other| slot(other) == slot(line)) {
        Some(other) => {
            format!("{line}\n      is now {}", other.split_once(": ").map_or(other.as_str(), |(_, rest)| rest))
        }
        None => format!("{line}\n      is gone"),
    };
    lost.map(tell).collect()
}

/// What a line is about: a field's or value's number, an RPC's name.
fn slot(line: &str) -> (&str, &str, &str) {
    let (owner, rest) = line.split_once(": ").unwrap_or((line, ""));
    let mut words = rest.split(' ');
    (owner, words.next().unwrap_or(""), words.next().unwrap_or(""))
}

/// The build's last words about a broken contract.
pub fn explain(broken: &[String]) -> String {
    format!(
        "the gRPC contract is broken (proto/contract.txt):\n\n    {}\n\nClients built against it would fail or \
         misread. Put these back, or make the change in a new package (a file of its own, say balsa.objects.v2) and \
         serve both. Adding fields, values, messages and RPCs is fine.",
        broken.join("\n    ")
    )
}
