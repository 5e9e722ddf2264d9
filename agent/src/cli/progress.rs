//! The progress of a pull: bars that are redrawn in place on a terminal, one plain line a step otherwise.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{age, table::printable};

/// The characters of a full bar.
const BAR: usize = 30;

/// What is known of each blob, in the order in which it first came up.
#[derive(Debug, Default)]
pub(super) struct Progress {
    order: Vec<String>,
    blobs: BTreeMap<String, Blob>,
    drawn: usize,
    terminal: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Blob {
    phase: String,
    current: u64,
    total: u64,
}

impl Progress {
    /// For a terminal, or for a file or pipe.
    pub(super) fn new(terminal: bool) -> Self {
        Self { terminal, ..Self::default() }
    }

    /// Takes one report of the agent; gives what to print now.
    pub(super) fn update(&mut self, report: &Value) -> String {
        let digest = report["digest"].as_str().unwrap_or_default().to_owned();
        let blob = Blob {
            phase: report["phase"].as_str().unwrap_or_default().to_owned(),
            current: report["current"].as_u64().unwrap_or(0),
            total: report["total"].as_u64().unwrap_or(0),
        };
        if !self.blobs.contains_key(&digest) {
            self.order.push(digest.clone());
        }
        let before = self.blobs.insert(digest.clone(), blob.clone());
        if self.terminal {
            return self.draw();
        }
        if before.is_some_and(|before| before.phase == blob.phase) {
            return String::new();
        }
        match blob.total {
            0 => format!("{}: {}\n", short(&digest), words(&blob.phase)),
            total => format!("{}: {} ({})\n", short(&digest), words(&blob.phase), age::bytes(total)),
        }
    }

    /// Redraws all lines in place.
    fn draw(&mut self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        if self.drawn > 0 {
            // Up to the first line; each line is then erased to its end as it is written (ECMA-48 CUU and EL).
            // Writing to a string does not fail.
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        for digest in &self.order {
            let blob = &self.blobs[digest];
            let _ = writeln!(out, "\r\x1b[K{}: {}", short(digest), line(blob));
        }
        self.drawn = self.order.len();
        out
    }
}

fn line(blob: &Blob) -> String {
    let words = words(&blob.phase);
    if blob.total == 0 || !matches!(blob.phase.as_str(), "downloading" | "unpacking") {
        return words;
    }
    let share = |of: usize| {
        let of = u64::try_from(of).unwrap_or(u64::MAX);
        usize::try_from(u128::from(blob.current.min(blob.total)) * u128::from(of) / u128::from(blob.total))
            .unwrap_or(0)
    };
    let filled = share(BAR);
    let bar = match BAR - filled {
        0 => "=".repeat(BAR),
        left => format!("{}>{}", "=".repeat(filled), " ".repeat(left - 1)),
    };
    format!("{words:<12} [{bar}] {:>3}%  {}/{}", share(100), age::bytes(blob.current), age::bytes(blob.total))
}

/// The agent's word for a phase, for a person.
fn words(phase: &str) -> String {
    match phase {
        "downloading" => "Downloading".to_owned(),
        "downloaded" => "Downloaded".to_owned(),
        "unpacking" => "Unpacking".to_owned(),
        "exists" => "Already here".to_owned(),
        "done" => "Pull complete".to_owned(),
        other => printable(other).into_owned(),
    }
}

/// Twelve digits of a digest.
fn short(digest: &str) -> String {
    printable(digest.strip_prefix("sha256:").unwrap_or(digest)).chars().take(12).collect()
}

#[cfg(test)]
mod tests;
