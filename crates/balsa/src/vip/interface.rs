//! The interface that the VIP lies on: it belongs to this process, and goes with it.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

const INTERFACE: &str = "balsa-vip";

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

/// A file number taken before any connection has one, for the interface of the address.
pub(crate) struct Seat(OwnedFd);

impl Seat {
    pub(crate) fn take() -> Result<Seat> {
        Ok(Seat(nobody()?.into()))
    }

    fn seat(&mut self, file: &File) -> Result<()> {
        nix::unistd::dup2(file, &mut self.0).context("giving the VIP's interface its file number")
    }

    /// Makes the interface with the address, which from now on is here.
    pub(super) async fn hold(&mut self, address: IpAddr) -> Result<()> {
        let interface = make_interface()?;
        for words in steps(address) {
            ip(&words).await?;
        }
        self.seat(&interface)
    }

    /// Ends the interface, and the address with it.
    pub(super) fn release(&mut self) -> Result<()> {
        self.seat(&nobody()?)
    }
}

/// What sits there while the address is not held.
fn nobody() -> Result<File> {
    File::open("/dev/null").context("opening /dev/null")
}

/// What `ip` is told.
fn steps(address: IpAddr) -> Vec<String> {
    let up = format!("link set {INTERFACE} up");
    match address {
        IpAddr::V4(_) => vec![format!("addr add {address}/32 dev {INTERFACE}"), up],
        // No asking around whether the address is free: it is to answer at once, and a frozen holder may
        // still have it. No link-local address: nobody is at the other end.
        IpAddr::V6(_) => vec![
            format!("link set {INTERFACE} addrgenmode none"),
            format!("addr add {address}/128 dev {INTERFACE} nodad"),
            up,
        ],
    }
}

async fn ip(words: &str) -> Result<()> {
    let output =
        tokio::process::Command::new("ip").args(words.split_whitespace()).output().await.context("starting ip")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A TUN interface that lives as long as the returned file is open.
#[expect(unsafe_code, reason = "the kernel's interface for TUN devices is an ioctl")]
fn make_interface() -> Result<File> {
    const IFF_TUN: i16 = 0x0001;
    const IFF_NO_PI: i16 = 0x1000;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
    // struct ifreq: the name, then a union of which the flags are used.
    let mut request = [0_u8; 40];
    request[..INTERFACE.len()].copy_from_slice(INTERFACE.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the kernel reads and writes at most the 40 bytes of `request`, which outlives the call.
    unsafe { tun_set_interface(file.as_raw_fd(), request.as_mut_ptr() as nix::libc::c_ulong) }
        .context("making the interface of the VIP")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_answers_at_once() {
        assert_eq!(
            steps("fd00::9".parse().unwrap()),
            [
                "link set balsa-vip addrgenmode none",
                "addr add fd00::9/128 dev balsa-vip nodad",
                "link set balsa-vip up"
            ]
        );
        assert_eq!(steps("10.0.0.9".parse().unwrap())[0], "addr add 10.0.0.9/32 dev balsa-vip");
    }
}
