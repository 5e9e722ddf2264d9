//! `stower stats`: what containers use.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    context::{Context, on_terminal, print},
    error::CliError,
    table::Table,
    target::{self, Target},
};
use crate::{args::StatsArgs, client::ClientError};

/// Between two looks; processor use is what lies between.
const EVERY: Duration = Duration::from_secs(1);
/// Moves to the top left of a terminal and clears it (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// One look at a container.
struct Look {
    at: Instant,
    stats: Value,
}

pub(super) async fn run(context: &Context, args: &StatsArgs) -> Result<(), CliError> {
    let mut before: BTreeMap<(String, String), Look> = BTreeMap::new();
    let memory = memory_of_machine();
    let mut first = true;
    loop {
        let mut now = BTreeMap::new();
        for target in targets(context, args).await? {
            match context.client.get(target.sub(&["stats"]).as_str()).await {
                Ok(stats) => {
                    now.insert((target.namespace, target.name), Look { at: Instant::now(), stats });
                }
                // One that was named is to run; of all, those that do are shown.
                Err(ClientError::Status(status))
                    if args.names.is_empty() && matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !first || now.is_empty() {
            let clear = if args.no_stream || !on_terminal() { "" } else { CLEAR };
            print(format!("{clear}{}", table(context, &before, &now, memory)))?;
            if args.no_stream {
                return Ok(());
            }
        }
        first = false;
        before = now;
        tokio::time::sleep(EVERY).await;
    }
}

/// Those that are asked for, or all that run.
async fn targets(context: &Context, args: &StatsArgs) -> Result<Vec<Target>, CliError> {
    if !args.names.is_empty() {
        return args.names.iter().map(|name| target::single(context, name)).collect();
    }
    let kind = &target::RESOURCES[0];
    let mut list = context.client.get(kind.list(context.scope()).as_str()).await?;
    let running = |object: &Value| object["status"]["state"]["running"].is_object();
    let running: Vec<Value> = target::items(&mut list).into_iter().filter(running).collect();
    running.iter().map(|object| Target::of(object, context.namespace())).collect()
}

fn table(
    context: &Context,
    before: &BTreeMap<(String, String), Look>,
    now: &BTreeMap<(String, String), Look>,
    machine: Option<u64>,
) -> String {
    let mut headings = vec!["NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];
    if context.all_namespaces {
        headings.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(&headings, true);
    for (key, look) in now {
        let number = |name: &str| look.stats[name].as_u64();
        let (used, limit) = (number("workingSetBytes"), number("limitBytes").or(machine));
        let pair = |a: &str, b: &str| format!("{} / {}", bytes(number(a)), bytes(number(b)));
        let mut row = vec![
            key.1.clone(),
            percent(before.get(key).and_then(|former| processor(former, look))),
            format!("{} / {}", bytes(used), bytes(limit)),
            percent(used.zip(limit.filter(|limit| *limit > 0)).map(|(used, limit)| ratio(used, limit))),
            pair("rxBytes", "txBytes"),
            pair("readBytes", "writeBytes"),
            number("pids").map_or_else(|| "--".to_owned(), |n| n.to_string()),
        ];
        if context.all_namespaces {
            row.insert(0, key.0.clone());
        }
        table.row(row);
    }
    table.render_rows()
}

/// Percent of one processor between two looks; none when it was started anew between them.
fn processor(before: &Look, now: &Look) -> Option<f64> {
    let used = |look: &Look| look.stats["usageCoreNanoSeconds"].as_u64();
    let spent = Duration::from_nanos(used(now)?.checked_sub(used(before)?)?);
    let passed = now.at.saturating_duration_since(before.at);
    (passed > Duration::ZERO).then(|| spent.as_secs_f64() / passed.as_secs_f64() * 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64 * 100.0
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "--".to_owned(), |value| format!("{value:.2}%"))
}

/// Bytes with a binary prefix, as Docker shows them.
#[expect(clippy::cast_precision_loss, reason = "it is shown with four digits")]
pub(super) fn bytes(value: Option<u64>) -> String {
    let Some(value) = value else { return "--".to_owned() };
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].iter().peekable();
    let mut rest = value as f64;
    while let Some(unit) = units.next() {
        if rest < 1024.0 || units.peek().is_none() {
            return if *unit == "B" {
                format!("{value}B")
            } else {
                format!("{rest:.4}").chars().take(5).collect::<String>().trim_end_matches('.').to_owned()
                    + unit
            };
        }
        rest /= 1024.0;
    }
    format!("{value}B")
}

/// The memory of this machine in bytes, which is the limit of whoever has none.
fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (value, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.000KiB"), (1_500_000, "1.430MiB"), (12 << 30, "12.00GiB")]
        {
            assert_eq!(bytes(Some(value)), text);
        }
        assert_eq!(bytes(None), "--");
    }

    #[test]
    fn processor_use_is_what_lies_between() {
        let at = Instant::now();
        let look = |seconds: u64, nanos: u64| Look {
            at: at + Duration::from_secs(seconds),
            stats: serde_json::json!({"usageCoreNanoSeconds": nanos}),
        };
        assert_eq!(processor(&look(0, 0), &look(2, 3_000_000_000)), Some(150.0));
        assert_eq!(processor(&look(0, 5), &look(1, 4)), None, "it was started anew");
        assert_eq!(percent(Some(12.345)), "12.35%");
    }
}
