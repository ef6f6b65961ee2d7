//! The cluster's own certificate authority: keys, certificates with roles, join tokens, TLS.
//!
//! There is no insecure mode: everything between masters, workers and users is mutual TLS from the
//! first start.

pub mod tls;
pub mod token;

use authz::{Identity, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::{Duration, SystemTime};

/// Certificates last this long; machines have theirs issued anew at half of it.
pub const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// How the name of a cluster's authority begins, before the cluster's id.
const CA_NAME: &str = "balsa-ca-";
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of machines may be behind that of the one that makes the authority by this much.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("cannot read a certificate: {0}")]
    Read(String),
    /// At this address.
    #[error("{0} belongs to another cluster than the token")]
    OtherCluster(String),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up client verification: {0}")]
    Verifier(String),
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub certificate: String,
    pub key: String,
}

/// The authority: signs; its key lives in the replicated state.
pub struct Authority {
    pub credential: Credential,
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

/// The common name of a role's certificate.
fn common_name(role: Role, holder: &str) -> String {
    match role {
        Role::Worker => format!("system:node:{holder}"),
        Role::Master | Role::Admin | Role::Reader => holder.to_string(),
    }
}

/// Valid since the authority's own beginning, `from`, whatever the clock says: one that was ahead when the certificate was
/// issued, and is set right, is not to make it of no use.
fn leaf(
    mut params: CertificateParams,
    role: Role,
    holder: &str,
    from: SystemTime,
    at: SystemTime,
) -> CertificateParams {
    params.distinguished_name = name(&common_name(role, holder), Some(role.group()));
    (params.not_before, params.not_after) = (from.min(at).into(), (at + VALIDITY).into());
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role == Role::Master {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    } else {
        params.subject_alt_names.clear();
    }
    params
}

impl Authority {
    /// A new authority for a cluster.
    pub fn generate(cluster_id: &str) -> Result<Authority, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        // A name of its own: OpenSSL calls a leaf of the same name self-signed.
        params.distinguished_name = name(&format!("{CA_NAME}{cluster_id}"), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - CLOCK_SLACK).into(), (now + CA_VALIDITY).into());
        let certificate = params.self_signed(&key)?.pem();
        Ok(Authority { credential: Credential { certificate, key: key.serialize_pem() } })
    }

    fn begins(&self) -> Result<SystemTime, Error> {
        with_certificate(&self.credential.certificate, |own| Ok(instant(own.validity().not_before)))
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        let key = KeyPair::from_pem(&self.credential.key)?;
        Ok(Issuer::from_ca_cert_pem(&self.credential.certificate, key)?)
    }

    /// Makes a key and a certificate of `role` for `holder`, valid for the given names and addresses.
    pub fn issue(&self, role: Role, holder: &str, alt_names: &[String]) -> Result<Credential, Error> {
        self.issue_as_of(SystemTime::now(), role, holder, alt_names)
    }

    /// The same as of another moment: what it looks like some time after.
    pub fn issue_as_of(
        &self,
        at: SystemTime,
        role: Role,
        holder: &str,
        alt_names: &[String],
    ) -> Result<Credential, Error> {
        let key = KeyPair::generate()?;
        let params = leaf(CertificateParams::new(alt_names.to_vec())?, role, holder, self.begins()?, at);
        let certificate = params.signed_by(&key, &self.issuer()?)?.pem();
        Ok(Credential { certificate, key: key.serialize_pem() })
    }

    /// Signs a request: takes over its key and, for masters, its alternative names; role and holder
    /// are the authority's word.
    pub fn sign(&self, role: Role, holder: &str, csr: &str) -> Result<String, Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        request.params = leaf(request.params, role, holder, self.begins()?, SystemTime::now());
        Ok(request.signed_by(&self.issuer()?)?.pem())
    }
}

/// A fresh key and a signing request for it.
pub fn signing_request(holder: &str, alt_names: &[String]) -> Result<(String, String), Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(alt_names.to_vec())?;
    params.distinguished_name = name(holder, None);
    let csr = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), csr))
}

/// Names and addresses that a master's certificate is valid for.
pub fn master_alt_names(name: &str, addresses: &[String]) -> Vec<String> {
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", name]
            .iter()
            .map(ToString::to_string)
            .collect();
    names.extend(addresses.iter().filter(|address| !address.is_empty()).cloned());
    names.sort();
    names.dedup();
    names
}

/// Who a verified certificate speaks for.
pub fn identity_of(der: &[u8]) -> Result<Identity, Error> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|error| Error::Read(error.to_string()))?;
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue| attribute.as_str().unwrap_or("").to_string();
    Ok(Identity {
        user: subject.iter_common_name().next().map(text).unwrap_or_default(),
        groups: subject.iter_organization().map(text).collect(),
    })
}

/// Of a PEM certificate.
fn with_certificate<T>(
    pem: &str,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate) -> Result<T, Error>,
) -> Result<T, Error> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| Error::Read(error.to_string()))?;
    look(&pem.parse_x509().map_err(|error| Error::Read(error.to_string()))?)
}

fn instant(time: x509_parser::time::ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// The instant after which a certificate is to be issued anew: half of its time before its end.
pub fn renew_at(pem: &str) -> Result<SystemTime, Error> {
    with_certificate(pem, |certificate| Ok(instant(certificate.validity().not_after) - VALIDITY / 2))
}

/// The id of the cluster whose authority this is.
pub fn cluster_of(ca: &str) -> Result<String, Error> {
    with_certificate(ca, |certificate| {
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let id = name.and_then(|name| name.strip_prefix(CA_NAME));
        id.map(String::from).ok_or_else(|| Error::Read("not an authority of a cluster".into()))
    })
}

/// The alternative names of a PEM certificate.
pub fn alt_names_of(pem: &str) -> Result<Vec<String>, Error> {
    with_certificate(pem, |certificate| {
        let names = certificate.subject_alternative_name().map_err(|error| Error::Read(error.to_string()))?;
        Ok(names.map(|names| names.value.general_names.iter().filter_map(alt_name).collect()).unwrap_or_default())
    })
}

fn alt_name(name: &x509_parser::extensions::GeneralName) -> Option<String> {
    match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some(name.to_string()),
        x509_parser::extensions::GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
        x509_parser::extensions::GeneralName::IPAddress(bytes) => {
            <[u8; 16]>::try_from(*bytes).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_carry_role_and_holder() {
        let authority = Authority::generate("c1").unwrap();
        assert_eq!(cluster_of(&authority.credential.certificate).unwrap(), "c1");
        let worker = authority.issue(Role::Worker, "w1", &[]).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(worker.certificate.as_bytes()).unwrap();
        let identity = identity_of(&pem.contents).unwrap();
        assert_eq!(identity.node(), Some("w1"));
        let (_, csr) = signing_request("ignored", &["10.0.0.1".into(), "fd00::1".into()]).unwrap();
        let signed = authority.sign(Role::Master, "m1", &csr).unwrap();
        assert_eq!(alt_names_of(&signed).unwrap(), ["10.0.0.1", "fd00::1"]);
        assert!(renew_at(&signed).unwrap() > SystemTime::now());
    }
}
