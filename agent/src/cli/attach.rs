//! `stower attach`: the streams of a container's own program.

use super::{
    context::Context,
    error::CliError,
    target,
    terminal::{self, Talk},
};
use crate::args::AttachArgs;

pub(super) async fn run(context: &Context, args: &AttachArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    let keys = terminal::keys(&args.detach_keys)?;
    let size = terminal::check(args.tty, args.stdin)?;
    let flag = |set: bool| set.then_some("true");
    let (rows, columns) = size.map_or((None, None), |(r, c)| (Some(r.to_string()), Some(c.to_string())));
    let url = target
        .sub(&["attach"])
        .maybe("tty", flag(args.tty))
        .maybe("rows", rows.as_deref())
        .maybe("columns", columns.as_deref())
        .maybe("stdin", flag(args.stdin))
        .query("stdout", "true")
        .query("stderr", "true");
    let connection = context.client.upgrade(url.as_str()).await?;
    if args.tty && args.stdin {
        super::context::note("If you don't see a command prompt, try pressing enter.");
    }
    Talk { tty: args.tty, stdin: args.stdin, keys }.over(connection).await
}
