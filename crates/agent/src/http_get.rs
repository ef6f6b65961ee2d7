//! An HTTP GET of a pod, as probes and hooks make it: HTTP/1.1, over TLS where asked, to whomever answers.
//!
//! A certificate is nobody's to verify here: whoever answers at a pod's own address is the pod. Redirects
//! are followed while they stay on the same host.

use http_body_util::Empty;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use objects::{Value, ValueExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// More redirects than these in a row lead nowhere.
const REDIRECTS_MAX: usize = 10;

/// What a GET is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With its query.
    pub(crate) path: String,
}

impl Target {
    /// `get` is an `httpGet` of a manifest; `host` is asked where it names none.
    pub(crate) fn new(get: &Value, host: &str, port: u16) -> Target {
        let (named, path) = (get.text("host"), get.text("path"));
        let host = if named.is_empty() { host } else { named };
        Target {
            tls: get.text("scheme") == "HTTPS",
            host: host.trim_matches(['[', ']']).into(),
            port,
            path: if path.starts_with('/') { path.into() } else { format!("/{path}") },
        }
    }

    /// `host:port`, an IPv6 address in brackets.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// As errors call it.
    fn shown(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("Get \"{scheme}://{}{}\"", self.authority(), self.path)
    }

    /// Where a `Location` leads from here; `None` when it cannot be read, or leads to another protocol.
    fn follow(&self, location: &str) -> Option<Target> {
        let location = location.split('#').next().unwrap_or("");
        let absolute = match location {
            // "://" in a query names no protocol.
            place if place.find("://").is_some_and(|at| !place[..at].contains(['/', '?'])) => place.to_string(),
            place if place.starts_with("//") => format!("{}:{place}", if self.tls { "https" } else { "http" }),
            place => {
                let here = self.path.split('?').next().unwrap_or("/");
                let path = match place {
                    "" => self.path.clone(),
                    place if place.starts_with('/') => place.to_string(),
                    place if place.starts_with('?') => format!("{here}{place}"),
                    place => format!("{}/{place}", here.rsplit_once('/').map_or("", |(folder, _)| folder)),
                };
                return Some(Target { path, ..self.clone() });
            }
        };
        let uri: Uri = absolute.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        Some(Target {
            tls,
            host: uri.host()?.trim_matches(['[', ']']).into(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).into(),
        })
    }

    /// The request, with headers of the manifest's own: one of a name that we send too stands in its place,
    /// and an empty one takes it away.
    fn request(&self, headers: &[Value]) -> Result<Request<Empty<&'static [u8]>>, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.path.parse().map_err(|error| format!("{}: {error}", self.shown()))?;
        let all = request.headers_mut();
        for header in headers {
            let (name, value) = (header.text("name"), header.text("value"));
            let wrong = |error: String| format!("header {name:?} cannot be sent: {error}");
            let field: HeaderName = name.parse().map_err(|error| wrong(format!("{error}")))?;
            all.append(field, value.parse().map_err(|error| wrong(format!("{error}")))?);
        }
        let authority = self.authority();
        for (field, ours) in [(HOST, authority.as_str()), (USER_AGENT, "kube-probe/1.36"), (ACCEPT, "*/*")] {
            let value = HeaderValue::from_str(ours).map_err(|error| format!("{}: {error}", self.shown()))?;
            match all.get(&field).map(HeaderValue::is_empty) {
                None => drop(all.insert(field, value)),
                Some(true) if field == HOST => drop(all.insert(field, value)),
                Some(true) => drop(all.remove(field)),
                Some(false) => {}
            }
        }
        all.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }

    /// Sends it once; what is answered is read as far as its headers.
    async fn ask(&self, headers: &[Value]) -> Result<Response<hyper::body::Incoming>, String> {
        let shown = self.shown();
        let request = self.request(headers)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| format!("{shown}: dial tcp {}: {error}", self.authority()))?;
        if !self.tls {
            return exchange(stream, request).await.map_err(|error| format!("{shown}: {error}"));
        }
        let stream = pki::tls::handshake_unverified(stream, &self.host).await;
        let stream = stream.map_err(|error| format!("{shown}: TLS: {error}"))?;
        exchange(stream, request).await.map_err(|error| format!("{shown}: {error}"))
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<&'static [u8]>>,
) -> Result<Response<hyper::body::Incoming>, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // The answer, or why there is none, comes through `sender`, also when the connection has ended.
    let driven = async {
        drop(connection.await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = sender.send_request(request) => answer.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
        () = driven => Err("the connection ended".into()),
    }
}

/// The status of what is answered in the end. A redirect to another host is not followed: it is the answer.
pub(crate) async fn get(target: Target, headers: &[Value]) -> Result<u16, String> {
    let (first, mut here) = (target.host.clone(), target);
    for _ in 0..REDIRECTS_MAX {
        let answer = here.ask(headers).await?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(LOCATION).filter(|_| [301, 302, 303, 307, 308].contains(&status));
        let Some(location) = location else { return Ok(status) };
        let next = location.to_str().ok().and_then(|location| here.follow(location));
        let next = next.ok_or_else(|| format!("{}: the redirect to {location:?} cannot be followed", here.shown()))?;
        if next.host != first {
            return Ok(status);
        }
        here = next;
    }
    Err(format!("{}: stopped after {REDIRECTS_MAX} redirects", here.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use objects::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn target(host: &str, path: &str) -> Target {
        Target::new(&json!({"path": path, "scheme": "HTTP"}), host, 80)
    }

    fn headers(host: &str, own: Value) -> Vec<String> {
        let request = target(host, "/x?y=1").request(own.as_array().unwrap()).unwrap();
        assert_eq!(request.uri(), "/x?y=1");
        let shown = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut all: Vec<String> = request.headers().iter().map(shown).collect();
        all.sort();
        all
    }

    #[test]
    fn a_request_may_bring_headers_of_its_own() {
        assert_eq!(
            headers("10.0.0.9", json!([])),
            ["accept: */*", "connection: close", "host: 10.0.0.9:80", "user-agent: kube-probe/1.36"]
        );
        let own = json!([{"name": "host", "value": "example.org"}, {"name": "X-A", "value": "1"},
            {"name": "X-A", "value": "2"}, {"name": "Accept", "value": ""}]);
        assert_eq!(
            headers("fd00::9", own),
            ["connection: close", "host: example.org", "user-agent: kube-probe/1.36", "x-a: 1", "x-a: 2"]
        );
        assert!(headers("fd00::9", json!([])).contains(&"host: [fd00::9]:80".into()));
        let error = target("h", "/").request(&[json!({"name": "A", "value": "b\nc"})]).unwrap_err();
        assert!(error.starts_with("header \"A\" cannot be sent"), "{error}");
        assert_eq!(target("h", "healthz").shown(), "Get \"http://h:80/healthz\"");
    }

    #[test]
    fn a_location_is_read_from_where_it_stands() {
        let from = target("h", "/a/b?c=d");
        let lead = |location: &str| from.follow(location).map(|target| target.shown());
        for (location, leads) in [
            ("/x", "http://h:80/x"),
            ("x?q", "http://h:80/a/x?q"),
            ("?q#f", "http://h:80/a/b?q"),
            ("/login?next=https://x/", "http://h:80/login?next=https://x/"),
            ("in?next=https://x/", "http://h:80/a/in?next=https://x/"),
            ("//other/x", "http://other:80/x"),
            ("https://h:8443", "https://h:8443/"),
            ("https://[fd00::1]/x", "https://[fd00::1]:443/x"),
        ] {
            assert_eq!(lead(location), Some(format!("Get \"{leads}\"")), "{location}");
        }
        assert_eq!((lead("ftp://h/x"), lead("http://")), (None, None));
    }

    /// Answers one connection after the other with these texts, each in two pieces, and ends.
    async fn serve(answers: &'static [&'static str]) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 1024];
                assert!(stream.read(&mut asked).await.unwrap() > 0);
                let answer = answer.replace("PORT", &port.to_string());
                let (head, tail) = answer.split_at(7);
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(tail.as_bytes()).await.unwrap();
            }
        });
        port
    }

    async fn asked(answers: &'static [&'static str]) -> Result<u16, String> {
        let port = serve(answers).await;
        get(Target { port, ..target("127.0.0.1", "/") }, &[])
            .await
            .map_err(|error| error.replace(&port.to_string(), "P"))
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_only() {
        const OK: &str = "HTTP/1.1 204 Fine\r\n\r\n";
        assert_eq!(asked(&[OK]).await, Ok(204));
        assert_eq!(asked(&["HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", OK]).await, Ok(204));
        assert_eq!(asked(&["HTTP/1.1 307 T\r\nLocation: http://127.0.0.1:PORT/\r\n\r\n", OK]).await, Ok(204));
        assert_eq!(asked(&["HTTP/1.1 301 Moved\r\nLocation: http://example.org/\r\n\r\n"]).await, Ok(301));
        assert_eq!(asked(&["HTTP/1.1 304 Same\r\nLocation: /x\r\n\r\n"]).await, Ok(304));
        assert_eq!(asked(&["HTTP/1.1 500 Oh\r\n\r\n"]).await, Ok(500));
        let error = asked(&["HTTP/1.1 302 F\r\nLocation: /\r\n\r\n"; 10]).await.unwrap_err();
        assert_eq!(error, "Get \"http://127.0.0.1:P/\": stopped after 10 redirects");
        let error = asked(&["SSH-2.0-OpenSSH\r\n"]).await.unwrap_err();
        assert!(error.starts_with("Get \"http://127.0.0.1:P/\": "), "{error}");
    }
}
