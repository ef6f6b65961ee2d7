//! Files that a process got from whoever started it without being meant to: a lock that a script holds, a
//! pipe that a test waits on. What goes on running for long must not hold them.

use std::os::fd::RawFd;

/// Numbers from here on are not standard input, output and errors.
const FIRST: RawFd = 3;

/// Closes everything that this process has open besides its standard streams. Called before it opens
/// anything itself.
pub fn close() {
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = listed.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect();
    // The handle that listed them is closed by now: closing it again is an error, and no harm.
    for number in open.into_iter().filter(|number| *number >= FIRST) {
        if let Err(error) = nix::unistd::close(number) {
            tracing::trace!(%error, number, "not open");
        }
    }
}
