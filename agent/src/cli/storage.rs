//! `stower storage info`: which driver keeps root filesystems, on what, and why no other.

use serde_json::Value;

use super::{
    age,
    context::{Context, print, to_data},
    describe::Tree,
    error::CliError,
};
use crate::args::{StorageArgs, StorageCommand};

pub(super) async fn run(context: &Context, args: &StorageArgs) -> Result<(), CliError> {
    let StorageCommand::Info(args) = &args.command;
    let info = context.client.get("/v1/storage").await?;
    match args.output {
        Some(output) => print(to_data(&info, output)?),
        None => print(text(&info)),
    }
}

fn str_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text(info: &Value) -> String {
    let mut tree = Tree::default();
    let why = match str_of(&info["chosen"]) {
        "Named" => "asked for by name",
        "InUse" => "has data here already",
        "FirstThatWorks" => "the first that works here",
        other => other,
    };
    tree.field("Driver", format!("{} ({why})", str_of(&info["driver"])));
    tree.field("Data Root", str_of(&info["dataRoot"]));
    tree.field("Backing Filesystem", str_of(&info["backingFilesystem"]));
    let limits = if info["limits"] == true { "enforced" } else { "not supported" };
    tree.field("Container Limits", limits);
    let pool = &info["pool"];
    if pool.is_object() {
        let mut inner = Tree::default();
        inner.field("Data", fill(&pool["data"]));
        inner.field("Metadata", fill(&pool["metadata"]));
        let pressure = &pool["pressure"];
        if pressure.is_object() {
            let why = format!("{}: {}", str_of(&pressure["reason"]), str_of(&pressure["message"]));
            inner.field("Pressure", why);
        }
        tree.headed("Pool", str_of(&pool["name"]).to_owned(), inner);
    }
    for (key, list, name, value) in
        [("Details", "details", "name", "value"), ("Passed Over", "passedOver", "driver", "reason")]
    {
        let mut inner = Tree::default();
        for item in info[list].as_array().into_iter().flatten() {
            inner.field(str_of(&item[name]), str_of(&item[value]));
        }
        if !inner.is_empty() {
            tree.group(key, inner);
        }
    }
    let unused: Vec<&str> = info["unused"].as_array().into_iter().flatten().map(str_of).collect();
    tree.maybe("Unused Data", Some(&unused.join(", ")));
    tree.render()
}

/// `1.5GB of 100GB (1 %)`
fn fill(fill: &Value) -> String {
    let (used, total) = (fill["used"].as_u64().unwrap_or(0), fill["total"].as_u64().unwrap_or(0));
    let percent = (u128::from(used) * 100).checked_div(u128::from(total)).unwrap_or(0);
    format!("{} of {} ({percent} %)", age::bytes(used), age::bytes(total))
}

#[cfg(test)]
mod tests;
