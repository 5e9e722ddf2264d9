//! `stower delete`: takes objects out of the agent's own source, or out of a cluster, and waits until they are gone.

use super::{
    age,
    apply::report,
    context::{Context, println},
    error::{CliError, Failures},
    files,
    target::{Target, refuse_all_namespaces, select},
    wait::{self, Goal},
};
use crate::args::{DeleteArgs, DryRun};

pub(super) async fn run(context: &Context, args: &DeleteArgs) -> Result<(), CliError> {
    let timeout = age::duration(args.wait.timeout.as_deref().unwrap_or("0")).map_err(CliError::Message)?;
    let targets = if args.filename.is_empty() {
        select(context, &args.selection).await?
    } else {
        refuse_all_namespaces(context)?;
        files::documents(&files::read(&args.filename, args.recursive)?)?
            .iter()
            .map(|document| {
                Target::of(document.object(), context.namespace())
                    .map_err(|error| CliError::Message(format!("{}: {error}", document.place())))
            })
            .collect::<Result<_, _>>()?
    };
    let mut failures = Failures::default();
    let mut gone = Vec::new();
    for target in targets {
        let url =
            if args.dry_run == DryRun::Server { target.url().query("dryRun", "All") } else { target.url() };
        match context.client.json(hyper::Method::DELETE, url.as_str(), None).await {
            Ok(object) => {
                println(report(&target, "deleted", args.dry_run))?;
                // What is gone at once is told of by an API server in a Status.
                let uid = object["metadata"]["uid"].as_str().or(object["details"]["uid"].as_str());
                let uid = uid.unwrap_or_default().to_owned();
                gone.push((target, uid));
            }
            Err(error) if args.ignore_not_found && error.is_not_found() => {}
            Err(error) => failures.add(error.into())?,
        }
    }
    if args.wait.wait.unwrap_or(true) && args.dry_run == DryRun::None {
        for (target, uid) in gone {
            if let Err(error) = wait::until(context, &target, Goal::Gone(uid), timeout).await {
                failures.add(error)?;
            }
        }
    }
    failures.end()
}
