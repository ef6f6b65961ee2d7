//! kubeconfig files: written for administrators, read by our own verbs.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Access;
use objects::json;
use pki::Credential;
use std::path::Path;

/// A kubeconfig with a context per (name, host:port), `current` chosen.
pub(crate) fn document(servers: &[(String, String)], current: &str, ca: &str, user: &Credential) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    let cluster = |(name, server): &(String, String)| json!({"name": name, "cluster": {"server": format!("https://{server}"), "certificate-authority-data": encode(ca)}});
    let context = |(name, _): &(String, String)| json!({"name": name, "context": {"cluster": name, "user": "admin"}});
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": current,
        "clusters": servers.iter().map(cluster).collect::<Vec<_>>(),
        "contexts": servers.iter().map(context).collect::<Vec<_>>(),
        "users": [{"name": "admin", "user": {
            "client-certificate-data": encode(&user.certificate), "client-key-data": encode(&user.key),
        }}],
    });
    // JSON is YAML; kubectl reads it, and people can.
    serde_json::to_string_pretty(&document).expect("a JSON value serialises") + "\n"
}

/// How our own verbs reach the cluster.
pub(crate) fn read(path: &Path) -> Result<Access> {
    Access::read(path).with_context(|| match path.exists() {
        true => format!("in {}", path.display()),
        false => "no kubeconfig; name one with --kubeconfig or $KUBECONFIG, or a dev folder with --dir".into(),
    })
}
