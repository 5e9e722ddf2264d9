//! `stower plan`: what the agent would do now.

use super::{
    context::{Context, print, println, to_data},
    error::CliError,
};
use crate::args::PlanArgs;

pub(super) async fn run(context: &Context, args: &PlanArgs) -> Result<(), CliError> {
    let plan = context.client.get("/v1/plan").await?;
    let lines: Vec<_> =
        plan["actions"].as_array().into_iter().flatten().filter_map(|line| line.as_str()).collect();
    match args.output {
        Some(output) => print(to_data(&plan, output)?)?,
        None if lines.is_empty() => println("nothing to do: this machine is as declared")?,
        None => lines.iter().try_for_each(println)?,
    }
    if args.detailed_exitcode && !lines.is_empty() {
        return Err(CliError::Told(2));
    }
    Ok(())
}
