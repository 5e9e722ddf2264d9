//! Messages as the callers of OCI runtimes read them: standard error, and a file in text or JSON.

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::cli::{Args, LogFormat};

/// Where messages go.
pub(super) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn new(args: &Args) -> Self {
        Self { file: args.log.clone(), format: args.log_format, debug: args.debug }
    }

    /// Why the command failed.
    pub(super) fn error(&self, error: &dyn Error) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        eprintln!("stower-runtime: {text}");
        self.write("error", &text);
    }

    /// Something went wrong that does not end the command.
    pub(super) fn warn(&self, text: &str) {
        eprintln!("stower-runtime: {text}");
        self.write("warning", text);
    }

    /// For who asked for it.
    pub(super) fn debug(&self, text: &str) {
        if self.debug {
            self.write("debug", text);
        }
    }

    fn write(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let time = crate::start::starter::rfc3339_now();
        let line = match self.format {
            LogFormat::Json => serde_json::json!({ "level": level, "msg": text, "time": time }).to_string(),
            LogFormat::Text => format!("time={time:?} level={level} msg={text:?}"),
        };
        let open = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        // There is nobody else to tell.
        let _ = open.and_then(|mut file| writeln!(file, "{line}"));
    }
}
