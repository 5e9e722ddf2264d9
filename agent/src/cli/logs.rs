//! `stower logs`: what a container wrote, as the agent streams it.

use super::{
    age,
    context::{Context, print},
    error::CliError,
    target,
};
use crate::args::LogsArgs;

pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    if args.tail < -1 {
        return Err(CliError::Message("--tail: must be -1 (all) or the number of lines".to_owned()));
    }
    if args.follow && args.previous {
        return Err(CliError::Message("only one of follow (-f) or previous (-p) is allowed".to_owned()));
    }
    let since = match &args.since {
        None => None,
        // Whole seconds, rounded up, as the log query has them.
        Some(text) => {
            let since = age::duration(text).map_err(CliError::Message)?;
            Some((since.as_secs() + u64::from(since.subsec_nanos() > 0)).max(1).to_string())
        }
    };
    let flag = |set: bool| set.then_some("true");
    let tail = (args.tail >= 0).then(|| args.tail.to_string());
    let limit = args.limit_bytes.map(|bytes| bytes.to_string());
    let url = target
        .sub(&["log"])
        .maybe("follow", flag(args.follow))
        .maybe("previous", flag(args.previous))
        .maybe("timestamps", flag(args.timestamps))
        .maybe("sinceSeconds", since.as_deref())
        .maybe("sinceTime", args.since_time.as_deref())
        .maybe("tailLines", tail.as_deref())
        .maybe("limitBytes", limit.as_deref());
    let mut stream = context.client.stream(hyper::Method::GET, url.as_str(), None).await?;
    while let Some(chunk) = stream.chunk().await? {
        print(chunk)?;
    }
    Ok(())
}
