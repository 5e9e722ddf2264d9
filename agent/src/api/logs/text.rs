//! Log records as the text that a client gets.

use stower_runtime::{
    LogDir, LogEvent, LogLine, LogReader,
    logs::{LogError, ReadOptions},
};

/// About how many bytes are read at once.
const CHUNK: usize = 64 << 10;

/// Reads one run after the other as text.
#[derive(Debug)]
pub(super) struct Text {
    dir: LogDir,
    /// The run being read and its reader; `None` before the first has written.
    run: Option<(u64, LogReader)>,
    since: ReadOptions,
    timestamps: bool,
    /// Whether the last line still goes on.
    open: bool,
}

impl Text {
    pub(super) fn new(
        dir: LogDir,
        run: Option<u64>,
        options: &ReadOptions,
        timestamps: bool,
    ) -> Result<Self, LogError> {
        let run = run.map(|run| dir.reader(run, options).map(|reader| (run, reader))).transpose()?;
        // Of a later run everything is new; only the time still counts.
        let since = ReadOptions { since: options.since, tail: None };
        Ok(Self { dir, run, since, timestamps, open: false })
    }

    /// What is there now, about [`CHUNK`] bytes of it; nothing at the end. With `follow` it goes on with the next run.
    /// When `over`, a last line that was never ended comes too.
    pub(super) fn read(&mut self, follow: bool, over: bool) -> Result<Vec<u8>, LogError> {
        let mut out = Vec::new();
        loop {
            // Looked for before this run is read to its end: a run begins only after the one before it has ended.
            let next = if follow { self.next_run()? } else { None };
            while out.len() < CHUNK {
                let Some((_, reader)) = &mut self.run else { break };
                match reader.next()? {
                    Some(event) => self.put(event, &mut out),
                    None => break,
                }
            }
            if out.len() >= CHUNK || (next.is_none() && !over) {
                return Ok(out);
            }
            let rest = self.run.as_mut().map(|(_, reader)| reader.finish()).unwrap_or_default();
            for event in rest {
                self.put(event, &mut out);
            }
            let Some(run) = next else { return Ok(out) };
            if std::mem::take(&mut self.open) {
                out.push(b'\n');
            }
            self.run = Some((run, self.dir.reader(run, &self.since)?));
        }
    }

    fn next_run(&self) -> Result<Option<u64>, LogError> {
        let this = self.run.as_ref().map(|(run, _)| *run);
        Ok(self.dir.runs()?.into_iter().find(|run| this.is_none_or(|this| *run > this)))
    }

    fn put(&mut self, event: LogEvent, out: &mut Vec<u8>) {
        match event {
            LogEvent::Line(LogLine { time, text, complete, .. }) => {
                if self.timestamps && !self.open {
                    out.extend_from_slice(time.as_str().as_bytes());
                    out.push(b' ');
                }
                out.extend_from_slice(&text);
                if complete {
                    out.push(b'\n');
                }
                self.open = !complete;
            }
            LogEvent::Gap { files } => {
                self.notice(out, &format!("{files} log file(s) were rotated away before they were read"));
            }
            LogEvent::Damaged { bytes } => self.notice(out, &format!("{bytes} bytes of the log are damaged")),
            _ => {}
        }
    }

    /// A line of the agent's own.
    fn notice(&mut self, out: &mut Vec<u8>, what: &str) {
        if std::mem::take(&mut self.open) {
            out.push(b'\n');
        }
        out.extend_from_slice(format!("stower: {what}\n").as_bytes());
    }
}
