//! Names of images as users write them and as container runtimes keep them: `busybox` is
//! docker.io/library/busybox:latest. Pure.
//!
//! Grammar: github.com/distribution/reference.

/// Characters of a name without its tag.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";

/// The whole name that `name` stands for; the error says which part is wrong.
pub fn normalized(name: &str) -> Result<String, String> {
    if name.contains('@') {
        return Err("an image is named by NAME:TAG here; its digest follows from what is in it".into());
    }
    // A colon before the last slash is a port's.
    let (named, tag) = match name.rsplit_once(':') {
        Some((named, tag)) if !tag.contains('/') => (named, tag),
        _ => (name, "latest"),
    };
    let (domain, path) = match named.split_once('/') {
        Some((domain, path)) if is_written_domain(domain) => (domain, path.to_string()),
        Some(_) => (DEFAULT_DOMAIN, named.to_string()),
        None => (DEFAULT_DOMAIN, format!("library/{named}")),
    };
    let (domain, path) = match (domain, path.contains('/')) {
        ("docker.io" | "index.docker.io", false) => (DEFAULT_DOMAIN, format!("library/{path}")),
        ("index.docker.io", true) => (DEFAULT_DOMAIN, path),
        _ => (domain, path),
    };
    if !is_domain(domain) {
        return Err(format!("{domain:?} is no host or host:port of a registry"));
    }
    if let Some(component) = path.split('/').find(|component| !is_component(component)) {
        return Err(format!(
            "{component:?}: a name is of lower-case letters and digits, joined by '.', '_', '__' or '-'"
        ));
    }
    if !is_tag(tag) {
        return Err(format!(
            "{tag:?}: a tag is of at most {TAG_MAX} letters, digits, '_', '.' and '-', and begins with none of the last two"
        ));
    }
    let whole = format!("{domain}/{path}");
    if whole.len() > NAME_MAX {
        return Err(format!("the name has {} characters; {NAME_MAX} are allowed", whole.len()));
    }
    Ok(format!("{whole}:{tag}"))
}

/// The same for a name that pods ask for, which may say the digest too; of tag and digest it is the digest
/// that counts.
pub fn asked_for(name: &str) -> Result<String, String> {
    let parsed = match name.split_once('@') {
        None => normalized(name),
        Some((_, digest)) if !is_digest(digest) => {
            Err(format!("{digest:?}: a digest is ALGORITHM:HEX, such as sha256 and 64 digits"))
        }
        // The tag is what follows the last colon of a normalized name.
        Some((named, digest)) => normalized(named)
            .map(|whole| format!("{}@{digest}", whole.rsplit_once(':').map_or(whole.as_str(), |(path, _)| path))),
    };
    parsed.map_err(|why| format!("couldn't parse image name {name:?}: {why}"))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let long_enough = if algorithm == "sha256" { hex.len() == 64 } else { hex.len() >= 32 };
    algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+.-_".contains(c))
        && long_enough
        && hex.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
}

/// Whether what stands before the first slash is a registry's host, and not the first part of a path.
fn is_written_domain(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.chars().any(|c| c.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case letters and digits, in runs joined by one '.', one or two '_', or any number of '-'.
fn is_component(component: &str) -> bool {
    let is_run = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_joint = |joint: &str| matches!(joint, "" | "." | "_" | "__") || joint.chars().all(|c| c == '-');
    component.starts_with(is_run) && component.ends_with(is_run) && component.split(is_run).all(is_joint)
}

fn is_tag(tag: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !tag.is_empty() && tag.len() <= TAG_MAX && tag.chars().all(inner) && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::{asked_for, normalized};

    #[test]
    fn short_names_stand_for_whole_ones() {
        for (name, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/me/app:2", "docker.io/me/app:2"),
            ("registry.local/busybox:1", "registry.local/busybox:1"),
            ("registry:5000/x", "registry:5000/x:latest"),
            ("registry:5000/x/y__z-a.b:v1_2", "registry:5000/x/y__z-a.b:v1_2"),
            ("localhost/x", "localhost/x:latest"),
            ("Registry/x", "Registry/x:latest"),
        ] {
            assert_eq!(normalized(name), Ok(want.into()), "{name}");
        }
    }

    #[test]
    fn what_no_runtime_would_take_is_refused() {
        for (name, why) in [
            ("", "lower-case"),
            ("Busybox", "lower-case"),
            ("a//b", "lower-case"),
            ("a/", "lower-case"),
            ("a..b", "lower-case"),
            ("a___b", "lower-case"),
            ("-a", "lower-case"),
            ("a b", "lower-case"),
            ("https://registry/x", "host"),
            ("registry:port/x", "host"),
            ("-x.y/a", "host"),
            ("busybox:", "tag"),
            ("busybox:-1", "tag"),
            ("busybox:a b", "tag"),
            ("busybox@sha256:0123", "digest"),
        ] {
            let told = normalized(name).expect_err(name);
            assert!(told.contains(why), "{name}: {told}");
        }
        assert!(normalized(&"a".repeat(300)).unwrap_err().contains("255"));
        assert!(normalized(&format!("a:{}", "1".repeat(129))).unwrap_err().contains("128"));
    }

    #[test]
    fn a_digest_goes_before_a_tag() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for name in [format!("me/app@{digest}"), format!("me/app:1@{digest}")] {
            assert_eq!(asked_for(&name), Ok(format!("docker.io/me/app@{digest}")));
        }
        assert_eq!(asked_for("registry:5000/x"), Ok("registry:5000/x:latest".into()));
        for name in ["a@x", "a@sha256:12", "A", &format!("A@{digest}")] {
            assert!(asked_for(name).unwrap_err().starts_with("couldn't parse image name"), "{name}");
        }
    }
}
