//! The user's verbs on objects: apply, get, describe, delete, logs, exec. kubectl does more; these
//! need nothing but this binary.

use crate::output::{self, TableFormat};
use crate::verbs::{Where, call, cluster, objects_client};
use anyhow::{Context, Result, bail};
use client::Access;
use objects::{Kind, Value, ValueExt, json, registry};
use protos::dispatch::Frame;
use protos::objects as pb;
use std::io::{Read, Write};
use std::path::PathBuf;
use tokio_stream::StreamExt;

#[derive(clap::Args)]
pub(crate) struct Scope {
    #[command(flatten)]
    at: Where,
    /// The namespace; by default the kubeconfig's, or `default`.
    #[arg(short, long)]
    namespace: Option<String>,
}

impl Scope {
    fn namespace<'a>(&'a self, access: &'a Access) -> &'a str {
        self.namespace.as_deref().or(access.namespace.as_deref()).unwrap_or("default")
    }
}

fn key(kind: &Kind, namespace: &str, name: &str) -> pb::Key {
    pb::Key {
        group: kind.group.into(),
        version: kind.version.into(),
        resource: kind.plural.into(),
        namespace: if kind.namespaced { namespace.into() } else { String::new() },
        name: name.into(),
    }
}

fn find(alias: &str) -> Result<&'static Kind> {
    registry::by_alias(alias).with_context(|| {
        let known: Vec<&str> = objects::kinds().iter().map(|kind| kind.plural).collect();
        format!("there is no resource {alias:?}; known are {}", known.join(", "))
    })
}

/// A name for a write, so that a retry through another master is applied once.
fn request_id() -> String {
    stdx::Rng::new(crate::seed()).uuid()
}

/// `TYPE NAME`, or `TYPE/NAME`.
fn target(words: &[String]) -> Result<(&'static Kind, Option<String>)> {
    match words {
        [one] => match one.split_once('/') {
            Some((kind, name)) => Ok((find(kind)?, Some(name.into()))),
            None => Ok((find(one)?, None)),
        },
        [kind, name] => Ok((find(kind)?, Some(name.clone()))),
        _ => bail!("say TYPE, TYPE NAME or TYPE/NAME"),
    }
}

/// `TYPE NAME NAME ...`, or `TYPE/NAME TYPE/NAME ...`.
fn targets_of(words: &[String]) -> Result<Vec<(&'static Kind, String)>> {
    match words {
        [] => Ok(Vec::new()),
        [first, ..] if first.contains('/') => words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => Ok((find(kind)?, name.to_string())),
                _ => bail!("{word}: say TYPE/NAME here, as in the words before it"),
            })
            .collect(),
        [kind, names @ ..] => {
            let kind = find(kind)?;
            if let Some(word) = names.iter().find(|name| name.contains('/')) {
                bail!("{word}: a name has no '/'; say either TYPE NAME NAME or TYPE/NAME TYPE/NAME");
            }
            if names.is_empty() {
                bail!("name what is to be deleted");
            }
            Ok(names.iter().map(|name| (kind, name.clone())).collect())
        }
    }
}

/// A pod's name, as `verb` takes it: NAME or pod/NAME, and of no other kind.
pub(crate) fn pod_name(verb: &str, word: &str) -> Result<String> {
    let is_pod = |kind: &str| registry::by_alias(kind).is_some_and(|kind| kind.plural == "pods");
    match word.split_once('/') {
        None => Ok(word.into()),
        Some((kind, name)) if is_pod(kind) && !name.is_empty() => Ok(name.into()),
        Some(_) => bail!("{word}: {verb} takes a pod's name; `balsa get pods` lists them"),
    }
}

/// The documents of a manifest: YAML or JSON, several in one file, lists opened.
fn documents(file: &PathBuf) -> Result<Vec<Value>> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else if file.is_dir() {
        bail!("{} is a folder: name its files, each with an -f of its own", file.display())
    } else {
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?
    };
    let mut all = Vec::new();
    for document in text.split("\n---") {
        let document = document.trim_start_matches("---");
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let value: Value =
            serde_saphyr::from_str(document).with_context(|| format!("{} is not valid YAML", file.display()))?;
        match value.text("kind") {
            "List" => all.extend(value.items("items").to_vec()),
            _ => all.push(value),
        }
    }
    Ok(all)
}

const LAST_APPLIED: &str = "balsa.dev/last-applied-configuration";

/// What takes `old` to `new` as a merge patch, deletions included.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = objects::Map::new();
    for (field, value) in new {
        match old.get(field) {
            Some(before) if before.is_object() && value.is_object() => {
                patch.insert(field.clone(), difference(before, value));
            }
            _ => drop(patch.insert(field.clone(), value.clone())),
        }
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    Value::Object(patch)
}

pub(crate) fn apply(scope: &Scope, files: &[PathBuf]) -> Result<()> {
    let access = scope.at.access()?;
    let objects: Vec<Value> = files.iter().map(documents).collect::<Result<Vec<_>>>()?.concat();
    if objects.is_empty() {
        bail!("no objects passed to apply");
    }
    each(objects, |object| {
        let done = apply_one(scope, &access, object)?;
        println!("{done}");
        Ok(())
    })
}

/// Does something with each of several things. One that fails does not keep the others from it; all that
/// went wrong is told, and is an error in the end.
fn each<T>(all: Vec<T>, mut act: impl FnMut(T) -> Result<()>) -> Result<()> {
    let n = all.len();
    let failed: Vec<anyhow::Error> = all.into_iter().filter_map(|one| act(one).err()).collect();
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.into_iter().next().expect("there is one")),
        n_failed => {
            failed.iter().for_each(|error| eprintln!("error: {error:#}"));
            bail!("{n_failed} of {n} failed")
        }
    }
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

/// The name that an object has. One that the cluster draws is another each time: it would never be found.
fn own_name(object: &Value) -> Result<String> {
    match (object.text("metadata.name"), object.text("metadata.generateName")) {
        ("", prefix) if !prefix.is_empty() => {
            bail!("{prefix}: cannot use generateName with apply: give it a name, or use `kubectl create`")
        }
        (name, _) => Ok(name.into()),
    }
}

/// Makes one object as it is asked for; says what was done.
fn apply_one(scope: &Scope, access: &Access, mut object: Value) -> Result<String> {
    let kind = registry::by_kind_name(object.text("kind"))
        .with_context(|| format!("kind {:?} is not known", object.text("kind")))?;
    let name = own_name(&object)?;
    let namespace = match object.text("metadata.namespace") {
        "" => scope.namespace(access).to_string(),
        namespace => namespace.to_string(),
    };
    let applied = object.to_string();
    object.object("metadata.annotations").insert(LAST_APPLIED.into(), applied.clone().into());
    let place = key(kind, &namespace, &name);
    let present = call(access, async |channel| {
        let request = pb::GetRequest { key: Some(place.clone()), ..Default::default() };
        match objects_client(channel).get(request).await {
            Ok(found) => Ok(found.map(Some)),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(tonic::Response::new(None)),
            Err(status) => Err(status),
        }
    })?;
    let done = match present {
        None => {
            let request = pb::WriteRequest {
                key: Some(place),
                json: object.to_string().into(),
                request_id: request_id(),
                ..Default::default()
            };
            let made = call(access, async |channel| objects_client(channel).create(request.clone()).await)?;
            warn(&made.warnings);
            "created"
        }
        Some(found) => {
            let live: Value = serde_json::from_slice(&found.json)?;
            let before = live.annotation(LAST_APPLIED).unwrap_or("{}");
            let mut patch = difference(&serde_json::from_str(before)?, &serde_json::from_str(&applied)?);
            patch.object("metadata.annotations").insert(LAST_APPLIED.into(), applied.into());
            let request = pb::PatchRequest {
                key: Some(place),
                // A list is as the file says, and nothing else is in it.
                r#type: pb::patch_request::Type::Merge.into(),
                patch: patch.to_string().into(),
                request_id: request_id(),
                ..Default::default()
            };
            let after = call(access, async |channel| objects_client(channel).patch(request.clone()).await)?;
            warn(&after.warnings);
            if after.revision == found.revision { "unchanged" } else { "configured" }
        }
    };
    Ok(format!("{}/{name} {done}", kind.singular))
}

fn list(access: &Access, kind: &Kind, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let request =
        pb::ListRequest { key: Some(key(kind, namespace, "")), label_selector: selector.into(), ..Default::default() };
    let list = call(access, async |channel| objects_client(channel).list(request.clone()).await)?;
    list.items.iter().map(|item| Ok(serde_json::from_slice(&item.json)?)).collect()
}

fn get_one(access: &Access, kind: &Kind, namespace: &str, name: &str) -> Result<Value> {
    let request = pb::GetRequest { key: Some(key(kind, namespace, name)), ..Default::default() };
    let object = call(access, async |channel| objects_client(channel).get(request.clone()).await)?;
    Ok(serde_json::from_slice(&object.json)?)
}

/// Prints rows as wide as they need, columns two spaces apart.
fn print_table(rows: &[Vec<String>]) {
    let n_columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..n_columns).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

pub(crate) fn get(scope: &Scope, words: &[String], all: bool, selector: &str, output: TableFormat) -> Result<()> {
    let access = scope.at.access()?;
    let (kind, name) = target(words)?;
    let namespace = if all { "" } else { scope.namespace(&access) };
    let objects = match &name {
        Some(name) => vec![get_one(&access, kind, scope.namespace(&access), name)?],
        None => list(&access, kind, namespace, selector)?,
    };
    if output == TableFormat::Json {
        let value = match name {
            Some(_) => objects.into_iter().next().unwrap_or_default(),
            None => json!({"kind": "List", "apiVersion": "v1", "items": objects}),
        };
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    if objects.is_empty() {
        eprintln!("nothing found");
        return Ok(());
    }
    let shown: Vec<usize> =
        (0..kind.columns.len()).filter(|i| output == TableFormat::Wide || kind.columns[*i].priority == 0).collect();
    let with_namespace = all && kind.namespaced;
    let mut header = vec!["NAME".to_string()];
    header.extend(shown.iter().map(|i| kind.columns[*i].name.to_uppercase()));
    if with_namespace {
        header.insert(0, "NAMESPACE".into());
    }
    let mut rows = vec![header];
    for object in &objects {
        let cells = (kind.row)(object, crate::now());
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
        let mut row = vec![object.text("metadata.name").to_string()];
        row.extend(shown.iter().map(|i| text(&cells[*i])));
        if with_namespace {
            row.insert(0, object.text("metadata.namespace").into());
        }
        rows.push(row);
    }
    print_table(&rows);
    Ok(())
}

/// The object as indented text, and its events.
pub(crate) fn describe(scope: &Scope, words: &[String]) -> Result<()> {
    let access = scope.at.access()?;
    let (kind, Some(name)) = target(words)? else { bail!("name the object to describe: TYPE NAME or TYPE/NAME") };
    let object = get_one(&access, kind, scope.namespace(&access), &name)?;
    fn show(value: &Value, indent: usize) {
        let pad = " ".repeat(indent);
        match value {
            Value::Object(fields) => {
                for (field, inner) in fields.iter().filter(|(field, _)| *field != LAST_APPLIED) {
                    match inner {
                        Value::Object(_) | Value::Array(_) => {
                            println!("{pad}{field}:");
                            show(inner, indent + 2);
                        }
                        Value::String(text) => println!("{pad}{field}: {text}"),
                        other => println!("{pad}{field}: {other}"),
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    match item {
                        Value::Object(_) => {
                            println!("{pad}-");
                            show(item, indent + 2);
                        }
                        Value::String(text) => println!("{pad}- {text}"),
                        other => println!("{pad}- {other}"),
                    }
                }
            }
            other => println!("{pad}{other}"),
        }
    }
    show(&object, 0);
    let namespace = if kind.namespaced { scope.namespace(&access) } else { "default" };
    let events = list(&access, registry::must(registry::EVENT), namespace, "")?;
    let about = events.iter().filter(|event| event.text("involvedObject.uid") == object.text("metadata.uid"));
    let mut about: Vec<&Value> = about.collect();
    about.sort_by(|a, b| a.text("lastTimestamp").cmp(b.text("lastTimestamp")));
    println!("events:");
    for event in about {
        println!(
            "  {} {} {}: {}",
            event.text("lastTimestamp"),
            event.text("type"),
            event.text("reason"),
            event.text("message")
        );
    }
    Ok(())
}

pub(crate) fn delete(scope: &Scope, words: &[String], files: &[PathBuf], grace: Option<i64>) -> Result<()> {
    let access = scope.at.access()?;
    let mut targets = Vec::new();
    for object in files.iter().map(documents).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        let kind = registry::by_kind_name(object.text("kind"))
            .with_context(|| format!("kind {:?} is not known", object.text("kind")))?;
        let namespace = match object.text("metadata.namespace") {
            "" => scope.namespace(&access).to_string(),
            namespace => namespace.to_string(),
        };
        targets.push((kind, namespace, object.text("metadata.name").to_string()));
    }
    for (kind, name) in targets_of(words)? {
        targets.push((kind, scope.namespace(&access).to_string(), name));
    }
    match (targets.is_empty(), files.is_empty()) {
        (true, true) => bail!("say TYPE NAME, or -f FILE"),
        (true, false) => bail!("no objects passed to delete"),
        (false, _) => {}
    }
    each(targets, |(kind, namespace, name)| {
        let request = pb::DeleteRequest {
            key: Some(key(kind, &namespace, &name)),
            grace_period_seconds: grace,
            propagation: "Background".into(),
            request_id: request_id(),
            ..Default::default()
        };
        call(&access, async |channel| objects_client(channel).delete(request.clone()).await)?;
        println!("{}/{name} deleted", kind.singular);
        Ok(())
    })
}

pub(crate) fn logs(scope: &Scope, request: pb::LogsRequest) -> Result<()> {
    let access = scope.at.access()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = objects_client(cluster(&access).connect().await?);
        let request = pb::LogsRequest { namespace: scope.namespace(&access).into(), ..request };
        let mut chunks = client.logs(request).await.map_err(told)?.into_inner();
        while let Some(chunk) = chunks.next().await {
            output::bytes(&chunk.map_err(told)?.data);
        }
        Ok(())
    })
}

fn told(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

/// Runs a command in a container; its exit code becomes ours.
pub(crate) fn exec(scope: &Scope, pod: &str, container: &str, stdin: bool, command: &[String]) -> Result<()> {
    let access = scope.at.access()?;
    let start = pb::ExecStart {
        namespace: scope.namespace(&access).into(),
        pod: pod.into(),
        container: container.into(),
        command: command.to_vec(),
        stdin,
        tty: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let mut client = objects_client(cluster(&access).connect().await?);
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        sender.send(pb::ExecRequest { start: Some(start), frame: None }).await?;
        if stdin {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok(n) = std::io::stdin().read(&mut buffer) {
                    let (channel, data) = if n == 0 { (255, vec![0]) } else { (0, buffer[..n].to_vec()) };
                    let frame = Some(Frame { channel, data: data.into() });
                    if sender.blocking_send(pb::ExecRequest { start: None, frame }).is_err() || n == 0 {
                        return;
                    }
                }
            });
        }
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut frames = client.exec(outgoing).await.map_err(told)?.into_inner();
        while let Some(frame) = frames.next().await {
            let frame = frame.map_err(told)?;
            match frame.channel {
                1 => output::bytes(&frame.data),
                2 => std::io::stderr().write_all(&frame.data)?,
                3 => {
                    let status: Value = serde_json::from_slice(&frame.data)?;
                    if status.text("status") == "Success" {
                        return Ok(0);
                    }
                    let cause = status.items("details.causes").iter().find(|c| c.text("reason") == "ExitCode");
                    return match cause.and_then(|cause| cause.text("message").parse::<i32>().ok()) {
                        Some(code) => Ok(code),
                        None => bail!("{}", status.text("message")),
                    };
                }
                _ => {}
            }
        }
        bail!("the stream ended before the command did")
    })?;
    if code != 0 {
        std::process::exit(code);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Result<String, String> {
        let words: Vec<String> = text.split_whitespace().map(Into::into).collect();
        let found = targets_of(&words).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|(kind, name)| format!("{}/{name}", kind.plural)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn several_things_are_named_at_once() {
        assert_eq!(targets("pod a b").unwrap(), "pods/a pods/b");
        assert_eq!(targets("po/a deploy/b").unwrap(), "pods/a deployments/b");
        assert_eq!(targets("").unwrap(), "");
        assert_eq!(targets("pod").unwrap_err(), "name what is to be deleted");
        assert!(targets("pod a po/b").unwrap_err().starts_with("po/b: a name has no"));
        assert!(targets("po/a b").unwrap_err().starts_with("b: say TYPE/NAME"));
        assert!(targets("po/").is_err());
    }

    #[test]
    fn logs_and_exec_take_pods_alone() {
        for word in ["web", "pod/web", "pods/web", "po/web"] {
            assert_eq!(pod_name("logs", word).unwrap(), "web");
        }
        let why = "deploy/web: logs takes a pod's name; `balsa get pods` lists them";
        assert_eq!(pod_name("logs", "deploy/web").unwrap_err().to_string(), why);
        assert!(pod_name("exec", "pod/").is_err());
    }

    #[test]
    fn what_cannot_be_applied_is_told() {
        assert_eq!(own_name(&json!({"metadata": {"name": "a", "generateName": "b-"}})).unwrap(), "a");
        let why = own_name(&json!({"metadata": {"generateName": "b-"}})).unwrap_err().to_string();
        assert!(why.starts_with("b-: cannot use generateName with apply: give it a name"), "{why}");
        let why = documents(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(why.ends_with(" is a folder: name its files, each with an -f of its own"), "{why}");
    }

    #[test]
    fn one_failure_does_not_end_what_else_is_to_be_done() {
        let mut done = Vec::new();
        let act = |n: i32| {
            done.push(n);
            if n % 2 == 0 { Ok(()) } else { bail!("{n} is odd") }
        };
        assert_eq!(each(vec![1, 2, 3, 4], act).unwrap_err().to_string(), "2 of 4 failed");
        assert_eq!(done, [1, 2, 3, 4]);
        assert_eq!(each(vec![1, 2], |n| if n == 1 { bail!("no") } else { Ok(()) }).unwrap_err().to_string(), "no");
    }
}
