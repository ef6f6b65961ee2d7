//! What a client needs of a kubeconfig: servers, the authority they show, and who the client is.

use crate::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// As long as a busy machine may take for a connection; the kernel would wait for two minutes.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A server whose machine has lost its power says nothing: what waits for it ends after two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// A server under its name in the kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    /// host:port; an IPv6 address stands in brackets.
    pub address: String,
}

/// How to reach a cluster, and as whom.
#[derive(Clone)]
pub struct Access {
    /// The cluster's authority, as PEM.
    pub ca: String,
    /// Without one only health and joining are answered.
    pub identity: Option<Identity>,
    /// Every server of the file, the current context's first.
    pub servers: Vec<Server>,
    /// The namespace that the current context names.
    pub namespace: Option<String>,
}

impl Access {
    /// Reads a kubeconfig, in YAML or JSON.
    pub fn read(path: &Path) -> Result<Access, Error> {
        let read = |source| Error::Read { path: path.display().to_string(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        Access::parse_in(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// The same of its text, whose files are looked for from the working folder.
    pub fn parse(text: &str) -> Result<Access, Error> {
        Access::parse_in(text, Path::new(""))
    }

    /// The same of a text in `folder`, from where the files are looked for that it names. Fails with the
    /// field that is missing.
    pub fn parse_in(text: &str, folder: &Path) -> Result<Access, Error> {
        let config: Value = serde_saphyr::from_str(text).map_err(|error| Error::Kubeconfig(error.to_string()))?;
        let current = config["current-context"].as_str().unwrap_or("");
        let context = named(&config, "contexts", current)?;
        let cluster = named(&config, "clusters", context["context"]["cluster"].as_str().unwrap_or(""))?;
        let user = &named(&config, "users", context["context"]["user"].as_str().unwrap_or(""))?["user"];
        let own = server(cluster);
        let all = config["clusters"].as_array().into_iter().flatten().map(server);
        let others = all.filter(|other| other.address != own.address);
        Ok(Access {
            ca: pem(&cluster["cluster"], "certificate-authority", folder)?,
            identity: Some(Identity {
                certificate: pem(user, "client-certificate", folder)?,
                key: pem(user, "client-key", folder)?,
            }),
            servers: std::iter::once(own.clone()).chain(others).collect(),
            namespace: said(&context["context"], "namespace").map(Into::into),
        })
    }

    /// The same with one server only; `None` when none has the name.
    pub fn only(mut self, name: &str) -> Option<Access> {
        self.servers.retain(|server| server.name == name);
        (!self.servers.is_empty()).then_some(self)
    }

    /// The same with one server, by host:port: for what is asked of that one and no other.
    pub fn at(&self, address: &str) -> Access {
        Access { servers: vec![Server { name: address.into(), address: address.into() }], ..self.clone() }
    }

    /// For those who mind their connections themselves: `connect` or `connect_lazy` it. It gives up on an
    /// address that says nothing after two seconds, and on a server that falls silent amid a call after ten.
    pub fn endpoint(&self, server: &Server) -> Result<Endpoint, Error> {
        let failed = |source| Error::Server { server: server.address.clone(), source };
        let host = server.address.rsplit_once(':').map_or(server.address.as_str(), |(host, _)| host);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name(host.trim_matches(['[', ']']));
        let tls = match &self.identity {
            Some(own) => tls.identity(tonic::transport::Identity::from_pem(&own.certificate, &own.key)),
            None => tls,
        };
        let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).map_err(failed)?;
        let endpoint = endpoint.connect_timeout(CONNECT_MAX);
        let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
        endpoint.tls_config(tls).map_err(failed)
    }
}

fn server(cluster: &Value) -> Server {
    let address = cluster["cluster"]["server"].as_str().unwrap_or("");
    Server {
        name: cluster["name"].as_str().unwrap_or("").into(),
        address: address.trim_start_matches("https://").trim_end_matches('/').into(),
    }
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Result<&'a Value, Error> {
    let found = config[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name);
    found.ok_or_else(|| Error::Kubeconfig(format!("{name:?} is not among its {list}")))
}

/// A field's text. An empty one says nothing, as with kubectl.
fn said<'a>(of: &'a Value, field: &str) -> Option<&'a str> {
    of[field].as_str().filter(|text| !text.is_empty())
}

/// What stands in the field's `-data`, or else in the file that the field names.
fn pem(of: &Value, field: &str, folder: &Path) -> Result<String, Error> {
    let data = format!("{field}-data");
    match (said(of, &data), said(of, field)) {
        (Some(text), _) => {
            let bytes = STANDARD.decode(text).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
            text.ok_or_else(|| Error::Kubeconfig(format!("{data} is not base64 of PEM")))
        }
        (None, Some(file)) => {
            let path = folder.join(file);
            let named = || format!("{}, which {field} names", path.display());
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: named(), source })?;
            if !text.contains("-----BEGIN ") {
                return Err(Error::Kubeconfig(format!("{}, holds no PEM", named())));
            }
            Ok(text)
        }
        (None, None) => Err(Error::Kubeconfig(format!("{data} is missing, and so is {field}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
current-context: second
clusters:
- {name: first, cluster: {server: 'https://10.0.0.1:6443', certificate-authority-data: Q0E=}}
- {name: second, cluster: {server: 'https://[fd00::9]:6443/', certificate-authority-data: Q0E=}}
- {name: same, cluster: {server: 'https://[fd00::9]:6443', certificate-authority-data: Q0E=}}
contexts:
- {name: second, context: {cluster: second, user: me}}
users:
- {name: me, user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}}
";

    #[test]
    fn the_current_server_comes_first() {
        let access = Access::parse(TEXT).unwrap();
        let servers: Vec<(&str, &str)> =
            access.servers.iter().map(|server| (server.name.as_str(), server.address.as_str())).collect();
        assert_eq!(servers, [("second", "[fd00::9]:6443"), ("first", "10.0.0.1:6443")]);
        let own = access.identity.clone().unwrap();
        assert_eq!((access.ca.as_str(), own.certificate.as_str(), own.key.as_str()), ("CA", "CERT", "KEY"));
        assert_eq!(access.clone().only("first").unwrap().servers[0].address, "10.0.0.1:6443");
        assert!(access.only("third").is_none());
    }

    #[test]
    fn the_context_may_name_a_namespace() {
        let namespace = |context: &str| Access::parse(&TEXT.replace("user: me}", context)).unwrap().namespace;
        assert_eq!(namespace("user: me}"), None);
        assert_eq!(namespace("user: me, namespace: ''}"), None);
        assert_eq!(namespace("user: me, namespace: shop}").as_deref(), Some("shop"));
    }

    fn told(read: Result<Access, Error>) -> String {
        read.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn credentials_may_lie_in_files_beside_it() {
        let folder = std::env::temp_dir().join(format!("balsa-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("pki")).unwrap();
        for (file, text) in [("ca", "-----BEGIN CA"), ("crt", "-----BEGIN CERT"), ("key", "-----BEGIN KEY")] {
            std::fs::write(folder.join("pki").join(file), text).unwrap();
        }
        std::fs::write(folder.join("pki/empty"), "").unwrap();
        let read = |key: &str| {
            let text = TEXT
                .replace("certificate-authority-data: Q0E=", "certificate-authority: pki/ca")
                .replace("client-certificate-data: Q0VSVA==", "client-certificate: pki/crt")
                .replace("client-key-data: S0VZ", key);
            std::fs::write(folder.join("kubeconfig"), text).unwrap();
            Access::read(&folder.join("kubeconfig"))
        };
        let key = |said: &str| read(said).unwrap().identity.unwrap().key;
        assert_eq!(key("client-key: pki/key"), "-----BEGIN KEY");
        assert_eq!(key(&format!("client-key: '{}'", folder.join("pki/key").display())), "-----BEGIN KEY");
        assert_eq!(key("client-key: pki/key, client-key-data: S0VZ"), "KEY", "-data wins");
        let access = read("client-key: pki/key").unwrap();
        assert_eq!((access.ca.as_str(), access.servers.len()), ("-----BEGIN CA", 2));
        assert_eq!(access.identity.unwrap().certificate, "-----BEGIN CERT");
        let file = |name: &str| folder.join(name).display().to_string();
        let why = format!("cannot read {}, which client-key names", file("pki/none"));
        assert_eq!(told(read("client-key: pki/none")), why);
        let why = format!("not a kubeconfig: {}, which client-key names, holds no PEM", file("pki/empty"));
        assert_eq!(told(read("client-key: pki/empty")), why);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let told = |text: &str| told(Access::parse(text));
        assert_eq!(told("{}"), "not a kubeconfig: \"\" is not among its contexts");
        let without = |field: &str| TEXT.replace(field, "other");
        assert!(told(&without("client-key-data")).contains("client-key-data is missing, and so is client-key"));
        assert!(told(&TEXT.replace("S0VZ", "'%'")).contains("client-key-data is not base64 of PEM"));
        assert!(told(&without("name: me")).contains("is not among its users"));
        assert!(told("[").contains("not a kubeconfig"));
    }
}
