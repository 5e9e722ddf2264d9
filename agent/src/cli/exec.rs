//! `stower exec`: a command in a container.

use super::{
    context::Context,
    error::CliError,
    target,
    terminal::{self, Talk},
};
use crate::{
    args::ExecArgs,
    client::{ClientError, Status},
};

pub(super) async fn run(context: &Context, args: &ExecArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    let keys = terminal::keys(&args.detach_keys)?;
    let size = terminal::check(args.tty, args.stdin)?;
    let mut url = target.sub(&["exec"]);
    for word in &args.command {
        url = url.query("command", word);
    }
    for pair in &args.env {
        match (pair.contains('='), std::env::var(pair)) {
            (true, _) => url = url.query("env", pair),
            (false, Ok(value)) => url = url.query("env", &format!("{pair}={value}")),
            // As in Docker: what is not set here is not set there.
            (false, Err(_)) => {}
        }
    }
    let flag = |set: bool| set.then_some("true");
    let (rows, columns) = size.map_or((None, None), |(r, c)| (Some(r.to_string()), Some(c.to_string())));
    let url = url
        .maybe("workingDir", args.workdir.as_deref())
        .maybe("user", args.user.as_deref())
        .maybe("tty", flag(args.tty))
        .maybe("rows", rows.as_deref())
        .maybe("columns", columns.as_deref())
        .maybe("stdin", flag(args.stdin))
        .query("stdout", "true")
        .maybe("stderr", flag(!args.tty));
    let connection = match context.client.upgrade(url.as_str()).await {
        Ok(connection) => connection,
        Err(error) => return Err(not_started(error)),
    };
    Talk { tty: args.tty, stdin: args.stdin, keys }.over(connection).await
}

/// What a shell says by its exit code.
fn not_started(error: ClientError) -> CliError {
    let code = match &error {
        ClientError::Status(Status { reason, .. }) if reason == "CommandNotFound" => 127,
        ClientError::Status(Status { reason, .. }) if reason == "CommandNotExecutable" => 126,
        _ => return error.into(),
    };
    let ClientError::Status(status) = error else { return error.into() };
    super::context::note(format!("error: {}", status.message));
    CliError::Told(code)
}
