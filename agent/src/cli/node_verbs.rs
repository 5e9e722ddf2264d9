//! Verbs that ask the agent of a node, and cannot be asked of a cluster: they say where to ask instead.

use super::{
    context::Context,
    error::CliError,
    target::{Target, single},
};
use crate::args::{Command, DEFAULT_SOCKET, ImageCommand};

/// The word for a verb of a node, and the containers that it names; `None` for a verb of both.
fn of_node(command: &Command) -> Option<(&'static str, Vec<&str>)> {
    Some(match command {
        Command::Logs(args) => ("logs", vec![args.name.as_str()]),
        Command::Attach(args) => ("attach", vec![args.name.as_str()]),
        Command::Exec(args) => ("exec", vec![args.name.as_str()]),
        Command::Top(args) => ("top", vec![args.name.as_str()]),
        Command::Diff(args) => ("diff", vec![args.name.as_str()]),
        Command::Commit(args) => ("commit", vec![args.name.as_str()]),
        Command::Export(args) => ("export", vec![args.name.as_str()]),
        Command::Cp(args) => {
            let sides = [&args.source, &args.destination];
            let named = sides.into_iter().filter(|side| !side.starts_with(['/', '.']));
            ("cp", named.filter_map(|side| Some(side.split_once(':')?.0)).collect())
        }
        Command::Stats(args) => ("stats", names(&args.names)),
        Command::Stop(args) => ("stop", names(&args.selection.targets)),
        Command::Start(args) => ("start", names(&args.selection.targets)),
        Command::Restart(args) => ("restart", names(&args.selection.targets)),
        Command::Plan(_) => ("plan", Vec::new()),
        Command::Images(_) => ("images", Vec::new()),
        Command::Pull(_) => ("pull", Vec::new()),
        Command::Rmi(_) => ("rmi", Vec::new()),
        Command::Image(args) => {
            let verb = match args.command {
                ImageCommand::Import(_) => "image import",
                ImageCommand::Ls(_) => "image ls",
                ImageCommand::Pull(_) => "image pull",
                ImageCommand::Save(_) => "image save",
                ImageCommand::Rm(_) => "image rm",
            };
            (verb, Vec::new())
        }
        Command::Storage(_) => ("storage", Vec::new()),
        Command::System(_) => ("system", Vec::new()),
        Command::Config(_) => ("config", Vec::new()),
        Command::Volume(_) => ("volume", Vec::new()),
        Command::Describe(args) if matches!(args.targets.as_slice(), [only] if is_node(only)) => {
            ("describe node", Vec::new())
        }
        Command::Agent(_)
        | Command::Get(_)
        | Command::Describe(_)
        | Command::Apply(_)
        | Command::Delete(_)
        | Command::Validate(_)
        | Command::Events(_)
        | Command::Wait(_)
        | Command::Node(_)
        | Command::Cluster(_)
        | Command::Health(_)
        | Command::HostRun(_)
        | Command::Crds
        | Command::Version(_)
        | Command::Completion(_) => return None,
    })
}

fn names(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Whether a word of `describe` is the node that the agent runs on.
pub(super) fn is_node(word: &str) -> bool {
    matches!(word, "node" | "nodes" | "no")
}

/// Refuses a verb of a node, and says where to ask: where the cluster knows on which node the containers are, there.
pub(super) async fn refuse(context: &Context, command: &Command) -> Result<(), CliError> {
    let Some((verb, names)) = of_node(command) else { return Ok(()) };
    let mut places = Vec::new();
    for name in names {
        // This is help: what cannot be found out is left out of it.
        let Ok(target) = single(context, name) else { continue };
        if let Some(node) = node_of(context, &target).await {
            places.push(format!("{target} is on node {node}"));
        }
    }
    Err(CliError::Message(told(verb, &places)))
}

fn told(verb: &str, places: &[String]) -> String {
    let (whereabouts, there) = if places.is_empty() {
        (String::new(), "run it on the node")
    } else {
        (format!("{}; ", places.join(", ")), "run it there")
    };
    format!(
        "{verb} is a command to the agent of a node, not to a cluster: {whereabouts}{there} as `stower {verb}`, where the agent's \
         socket is {DEFAULT_SOCKET}, or what --socket or STOWER_SOCKET names"
    )
}

async fn node_of(context: &Context, target: &Target) -> Option<String> {
    let object = context.client.get(target.url().as_str()).await.ok()?;
    Some(object["spec"]["nodeName"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests;
