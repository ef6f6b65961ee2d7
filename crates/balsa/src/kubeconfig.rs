//! kubeconfig files: written for administrators, read by our own verbs.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use objects::{Value, ValueExt, json};
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

/// What a client needs of a kubeconfig.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) ca: String,
    pub(crate) credential: Credential,
    /// Every server of the file, the current one first.
    pub(crate) servers: Vec<String>,
}

pub(crate) fn read(path: &Path) -> Result<Access> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "reading {}; name a kubeconfig with --kubeconfig or $KUBECONFIG, or a dev folder with --dir",
            path.display()
        )
    })?;
    let config: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not a kubeconfig", path.display()))?;
    let decode =
        |value: &Value| -> Result<String> { Ok(String::from_utf8(STANDARD.decode(value.as_str().unwrap_or(""))?)?) };
    let named = |list: &str, name: &str| config.items(list).iter().find(|item| item.text("name") == name).cloned();
    let current = config.text("current-context");
    let Some(context) = named("contexts", current) else { bail!("context {current:?} is not in {}", path.display()) };
    let cluster = named("clusters", context.text("context.cluster")).unwrap_or_default();
    let user = named("users", context.text("context.user")).unwrap_or_default();
    let address = |cluster: &Value| {
        cluster.text("cluster.server").trim_start_matches("https://").trim_end_matches('/').to_string()
    };
    let server = address(&cluster);
    let others = config.items("clusters").iter().map(address).filter(|other| *other != server);
    let servers = std::iter::once(server.clone()).chain(others).collect();
    Ok(Access {
        ca: decode(cluster.at("cluster").at("certificate-authority-data"))?,
        credential: Credential {
            certificate: decode(user.at("user").at("client-certificate-data"))?,
            key: decode(user.at("user").at("client-key-data"))?,
        },
        servers,
    })
}
