//! Join tokens: a secret for a role, and the digest of the CA so that the joiner knows its cluster.
//!
//! Form: `balsa.ROLE.SECRET.CADIGEST`. The state keeps only the secret's SHA-256.

use authz::Role;
use rand::Rng;
use sha2::{Digest, Sha256};
use std::fmt::Write;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub role: Role,
    pub secret: String,
    pub ca_digest: String,
}

#[derive(Debug, thiserror::Error)]
#[error("not a join token: expected balsa.ROLE.SECRET.CADIGEST, as `balsa token` prints it")]
pub struct Malformed;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// 160 bits from the operating system.
pub fn fresh_secret() -> String {
    let mut bytes = [0_u8; 20];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

impl Token {
    pub fn parse(text: &str) -> Result<Token, Malformed> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let ["balsa", role, secret, ca_digest] = parts.as_slice() else { return Err(Malformed) };
        let role = Role::ALL.into_iter().find(|known| known.name() == *role).ok_or(Malformed)?;
        if secret.len() < 20 || ca_digest.len() != 64 {
            return Err(Malformed);
        }
        Ok(Token { role, secret: (*secret).into(), ca_digest: (*ca_digest).into() })
    }

    pub fn text(&self) -> String {
        format!("balsa.{}.{}.{}", self.role.name(), self.secret, self.ca_digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        let token = Token { role: Role::Worker, secret: fresh_secret(), ca_digest: digest(b"ca") };
        assert_eq!(Token::parse(&token.text()).unwrap(), token);
        for bad in ["", "balsa.worker.x.y", "balsa.king.aaaaaaaaaaaaaaaaaaaaaaaa.bb", &token.text()[1..]] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
