//! What verbs print: standard output whose reader may leave (`balsa get pods | head -1`), which ends the
//! verb quietly, as it ends other commands.
//!
//! Not by letting SIGPIPE end the process: the same signal would come of a connection that a master closed
//! in the middle of a write, and end a verb that only had to ask another master.

use clap::ValueEnum;
use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

/// `-o`: for people, 80 columns wide, or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// `-o` of a table that has columns for the curious, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    #[default]
    Text,
    Wide,
    Json,
}

/// What a shell reports of a command that SIGPIPE ended: 128 + 13.
const READER_LEFT: i32 = 141;
/// The exit code when standard output takes no more, as sysexits.h has it (EX_IOERR): never what a verb says with its
/// own.
pub(crate) const UNWRITTEN: u8 = 74;

/// Ends the process when what was printed cannot be: quietly when nobody reads any more.
fn printed(result: std::io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(READER_LEFT),
        Err(error) => {
            eprintln!("error: writing to standard output: {error}");
            std::process::exit(UNWRITTEN.into());
        }
    }
}

pub(crate) fn print(text: Arguments) {
    printed(stdout().write_fmt(text));
}

/// Bytes as they come, shown at once.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut out = stdout().lock();
    printed(out.write_all(bytes).and_then(|()| out.flush()));
}

/// What is told on the way. That nobody listens any more is no reason to leave what was begun: a run of chaos has harm to
/// heal.
pub(crate) fn tell(text: Arguments) {
    drop(std::io::stderr().write_fmt(text));
}

/// In the place of the standard library's, which panics when the reader has left.
macro_rules! println {
    () => { $crate::output::print(format_args!("\n")) };
    ($text:literal $($rest:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($text $($rest)*))) };
}

/// The same of standard error's.
macro_rules! eprintln {
    ($text:literal $($rest:tt)*) => { $crate::output::tell(format_args!("{}\n", format_args!($text $($rest)*))) };
}
