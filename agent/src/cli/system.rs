//! `stower system`: what takes room on disk, and removing what nothing needs.

use serde_json::{Value, json};

use super::{
    age,
    context::{Context, note, now, print, println, to_data},
    error::CliError,
    row::{amount, short_digest},
    table::{Table, printable},
    volume::confirmed,
};
use crate::{
    args::{SystemArgs, SystemCommand, SystemDfArgs, SystemPruneArgs},
    client::Content,
};

/// What `df` shows: a field of the agent's answer, and what it is called.
const SHARES: [(&str, &str); 4] = [
    ("images", "Images"),
    ("containers", "Containers"),
    ("volumes", "Local Volumes"),
    ("leftovers", "Leftovers"),
];

pub(super) async fn run(context: &Context, args: &SystemArgs) -> Result<(), CliError> {
    match &args.command {
        SystemCommand::Df(args) => df(context, args).await,
        SystemCommand::Prune(args) => prune(context, args).await,
    }
}

async fn df(context: &Context, args: &SystemDfArgs) -> Result<(), CliError> {
    let usage = context.client.get("/v1/system/df").await?;
    match args.output {
        Some(output) => print(to_data(&usage, output)?),
        None if args.verbose => print(verbose(&usage)),
        None => print(summary(&usage)),
    }
}

fn bytes(value: &Value) -> String {
    age::bytes(value.as_u64().unwrap_or(0))
}

/// As Docker prints it.
fn summary(usage: &Value) -> String {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], true);
    for (field, name) in SHARES {
        let share = &usage[field];
        let (all, free) = (&share["bytes"], &share["reclaimableBytes"]);
        let percent = match (all.as_u64(), free.as_u64()) {
            (Some(all @ 1..), Some(free)) => format!(" ({}%)", u128::from(free) * 100 / u128::from(all)),
            _ => String::new(),
        };
        table.row(vec![
            name.to_owned(),
            amount(&share["total"]),
            amount(&share["active"]),
            bytes(all),
            format!("{}{percent}", bytes(free)),
        ]);
    }
    table.render_rows()
}

fn verbose(usage: &Value) -> String {
    let mut out = String::new();
    for (field, name) in SHARES {
        let items = usage[field]["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            continue;
        }
        let is_image = field == "images";
        let headings: &[&str] = match is_image {
            true => &["IMAGE", "DIGEST", "LAST USED", "SIZE", "UNIQUE SIZE", "FILES", "USED"],
            false => &["NAME", "SIZE", "FILES", "USED"],
        };
        let mut table = Table::new(headings, true);
        for item in items {
            let name = printable(item["name"].as_str().unwrap_or_default()).into_owned();
            let used = if item["active"] == true { "yes" } else { "no" }.to_owned();
            let (size, files) = (bytes(&item["bytes"]), amount(&item["inodes"]));
            table.row(match is_image {
                true => vec![
                    name,
                    short_digest(&item["digest"]),
                    format!("{} ago", age::since(&item["lastUsed"], now())),
                    size,
                    bytes(&item["uniqueBytes"]),
                    files,
                    used,
                ],
                false => vec![name, size, files, used],
            });
        }
        let gap = if out.is_empty() { "" } else { "\n" };
        out = format!("{out}{gap}{name}: {}\n{}", bytes(&usage[field]["bytes"]), table.render_rows());
    }
    out
}

async fn prune(context: &Context, args: &SystemPruneArgs) -> Result<(), CliError> {
    let ask = |dry_run: bool| json!({"all": args.all, "volumes": args.volumes, "dryRun": dry_run});
    // It takes as long as there is to remove.
    let post = |body: Value| async move {
        let content = Some(Content::json(&body));
        let mut stream = context.client.stream(hyper::Method::POST, "/v1/system/prune", content).await?;
        let report = stream.event().await?;
        report.ok_or_else(|| CliError::Message("the agent did not say what it removed".to_owned()))
    };
    if !args.force {
        let plan = post(ask(true)).await?;
        let items = plan["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            note("Nothing to remove.");
            return Ok(());
        }
        note("This removes for ever:");
        for item in items {
            note(format!("  {}", line(item)));
        }
        if !confirmed()? {
            return Err(CliError::Message("nothing was removed".to_owned()));
        }
    }
    let done = post(ask(false)).await?;
    let mut left = false;
    for item in done["items"].as_array().into_iter().flatten() {
        match item["problem"].as_str() {
            None => println(format!("removed {}", line(item)))?,
            Some(why) => {
                left = true;
                note(format!("kept {}: {}", line(item), printable(why)));
            }
        }
    }
    println(format!("Total reclaimed space: {}", bytes(&done["reclaimedBytes"])))?;
    if left { Err(CliError::Message("not all of it could be removed".to_owned())) } else { Ok(()) }
}

/// One thing, with its size.
fn line(item: &Value) -> String {
    let text = |field: &str| printable(item[field].as_str().unwrap_or_default()).into_owned();
    let kind = match item["kind"].as_str() {
        Some("Content" | "Layers") | None => String::new(),
        Some(kind) => format!("{} ", kind.to_lowercase()),
    };
    format!("{kind}{} ({})", text("name"), bytes(&item["bytes"]))
}

#[cfg(test)]
mod tests;
