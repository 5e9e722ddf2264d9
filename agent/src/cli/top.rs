//! `stower top`: the processes of a container.

use super::{
    context::{Context, print},
    error::CliError,
    stats::bytes,
    table::Table,
    target,
};
use crate::args::TopArgs;

pub(super) async fn run(context: &Context, args: &TopArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    let list = context.client.get(target.sub(&["processes"]).as_str()).await?;
    let mut table =
        Table::new(&["UID", "PID", "PPID", "IN CONTAINER", "STATE", "RSS", "TIME", "COMMAND"], true);
    for process in list["items"].as_array().into_iter().flatten() {
        let number = |name: &str| process[name].as_u64().unwrap_or(0);
        let text = |name: &str| process[name].as_str().unwrap_or("").to_owned();
        let seconds = number("cpuMs") / 1000;
        table.row(vec![
            number("uid").to_string(),
            number("pid").to_string(),
            number("ppid").to_string(),
            number("containerPid").to_string(),
            text("state"),
            bytes(Some(number("rssBytes"))),
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            text("command"),
        ]);
    }
    print(table.render_rows())
}
