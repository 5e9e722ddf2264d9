//! `stower version`: of this program, and of the agent or the API server that answers.

use serde_json::json;

use super::{
    context::{Context, print, println, to_data},
    error::CliError,
};
use crate::args::VersionArgs;

pub(super) async fn run(context: &Context, args: &VersionArgs) -> Result<(), CliError> {
    let client = crate::api::version();
    let agent = if args.client { None } else { Some(context.client.get("/version").await) };
    match args.output {
        Some(output) => {
            let mut all = json!({"clientVersion": client});
            if let Some(Ok(agent)) = &agent {
                all["serverVersion"] = agent.clone();
            }
            print(to_data(&all, output)?)?;
        }
        None => {
            println(format!("Client Version: {}", client["gitVersion"].as_str().unwrap_or_default()))?;
            if let Some(Ok(agent)) = &agent {
                let who = if context.client.is_cluster() { "Server" } else { "Agent" };
                println(format!("{who} Version: {}", agent["gitVersion"].as_str().unwrap_or("unknown")))?;
            }
        }
    }
    match agent {
        Some(Err(error)) => Err(error.into()),
        _ => Ok(()),
    }
}
