//! What a host says to a connection at the VIP while it is not there: no, at once. Without this a host
//! whose master has just died swallows the first segment of every new connection until neighbours learn
//! of the new holder, and TCP repeats that only after a second.

use anyhow::{Context, Result, bail};
use std::net::IpAddr;

/// nft's rules for it.
///
/// Only of what comes in from the masters' link: a host that forwards for pods passes theirs on.
fn rules(address: IpAddr, port: u16, interface: &str) -> String {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table {family} balsa_vip\ndelete table {family} balsa_vip\ntable {family} balsa_vip {{\n  \
         chain prerouting {{\n    type filter hook prerouting priority filter; policy accept;\n    \
         iifname \"{interface}\" {family} daddr {address} tcp dport {port} fib daddr type != local reject with tcp reset\n  }}\n}}\n"
    )
}

/// Tells the kernel to refuse; it goes on doing so when this process is gone, which is the point.
pub(super) async fn refuse_while_absent(address: IpAddr, port: u16, interface: &str) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut command = tokio::process::Command::new("nft");
    command.args(["-f", "-"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().context("starting nft")?;
    let mut stdin = child.stdin.take().context("it was piped")?;
    stdin.write_all(rules(address, port, interface).as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_rules_are_of_the_address_family() {
        let text = [rules("10.0.0.9".parse().unwrap(), 6443, "eth0"), rules("fd00::9".parse().unwrap(), 6443, "eth0")]
            .concat();
        expect![[r#"
            table ip balsa_vip
            delete table ip balsa_vip
            table ip balsa_vip {
              chain prerouting {
                type filter hook prerouting priority filter; policy accept;
                iifname "eth0" ip daddr 10.0.0.9 tcp dport 6443 fib daddr type != local reject with tcp reset
              }
            }
            table ip6 balsa_vip
            delete table ip6 balsa_vip
            table ip6 balsa_vip {
              chain prerouting {
                type filter hook prerouting priority filter; policy accept;
                iifname "eth0" ip6 daddr fd00::9 tcp dport 6443 fib daddr type != local reject with tcp reset
              }
            }
        "#]]
        .assert_eq(&text);
    }
}
