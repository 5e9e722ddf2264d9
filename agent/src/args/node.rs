//! `stower node` and its flags.

use clap::{Args, Subcommand};

/// `stower node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// What `stower node` does.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Give up a node that is gone for good, so that what was deleted on it goes
    Forget(NodeForgetArgs),
}

/// `stower node forget`.
#[derive(Debug, Args)]
#[command(
    after_help = "An object that is deleted stays until the agent of its node has removed its processes and data. Where that node is gone\nfor good, nobody does. This removes the agent's finalizer from the node's deleted objects, tells by an Event which data is\ngiven up, and deletes the node's Lease. Objects that nobody deleted stay. A node that comes back after all finds its objects\ngone and tears down what it has; what `reclaimPolicy: Retain` keeps, it keeps.\n\nExamples:\n  stower node forget worker-3\n  kubectl stower node forget worker-3 --yes"
)]
pub struct NodeForgetArgs {
    /// The node's name
    pub name: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Also where its agent renewed its Lease a moment ago; what still runs there goes on until it hears of it
    #[arg(long)]
    pub force: bool,
    /// The namespace of the agents' Leases
    #[arg(long, value_name = "NAME", default_value = crate::args::DEFAULT_LEASE_NAMESPACE)]
    pub lease_namespace: String,
    /// Change nothing: only ask the API server whether it would
    #[arg(long)]
    pub dry_run: bool,
}
