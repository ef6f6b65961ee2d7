//! The process' source of randomness, which here is none.
//!
//! tokio shuffles the wake-ups of a watch channel, and hash maps their keys, by what the operating
//! system gives them. The standard library asks for it through a weak symbol, so that a program can
//! put its own in that place; this one always answers the same.
#![expect(unsafe_code, reason = "a C symbol is the only door to the standard library's randomness")]

/// As `getrandom(2)`.
///
/// # Safety
/// `buffer` must be valid for writes of `n_bytes` bytes, as for the system's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, n_bytes: usize, _flags: u32) -> isize {
    // SAFETY: the caller promises that the buffer is valid for as many bytes.
    unsafe { buffer.write_bytes(0x5A, n_bytes) };
    n_bytes as isize
}
