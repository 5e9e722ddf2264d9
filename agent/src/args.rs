//! The command line as clap sees it: names, flags and defaults only. What a verb does is in [`crate::cli`].

mod config;
mod host;
mod node;
mod storage;
mod system;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub use self::config::{ConfigArgs, ConfigCheckArgs, ConfigCommand, ConfigShowArgs};
pub use self::host::{
    ClusterArgs, ClusterCheckArgs, ClusterCommand, ClusterPurgeArgs, HealthArgs, HostRunArgs,
};
pub use self::node::{NodeArgs, NodeCommand, NodeForgetArgs};
pub use self::storage::{
    StorageArgs, StorageCommand, StorageInfoArgs, VolumeArgs, VolumeCommand, VolumeInspectArgs, VolumeLsArgs,
    VolumePruneArgs, VolumeRmArgs, WaitForArgs,
};

pub use self::system::{SystemArgs, SystemCommand, SystemDfArgs, SystemPruneArgs};

/// The socket of an agent that was not told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/stower/stower.sock";
/// The manifests directory of an agent that was not told otherwise.
pub const DEFAULT_MANIFESTS: &str = "/etc/stower/manifests";
/// The data root of an agent that was not told otherwise.
pub const DEFAULT_DATA_ROOT: &str = "/var/lib/stower";
/// The run root of an agent that was not told otherwise.
pub const DEFAULT_RUN_ROOT: &str = "/run/stower";
/// The configuration file of an agent that was not told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/stower/config.yaml";
/// The namespace of the agents' Leases, where none was named.
pub const DEFAULT_LEASE_NAMESPACE: &str = "stower-system";
/// The environment variable that names the socket.
pub const SOCKET_ENV: &str = "STOWER_SOCKET";

/// Runs declared containers on this machine, and shows and changes them.
#[derive(Debug, Parser)]
#[command(
    name = "stower",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes, before or after the verb.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The agent's unix socket [default: /run/stower/stower.sock]
    #[arg(long, global = true, env = SOCKET_ENV, value_name = "PATH", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// Talk to the API server that this kubeconfig names, not to an agent [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Talk to the API server of this context of the kubeconfig, not to an agent
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace to look in [default: that of the context, or default]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Look in all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: keep this machine as its manifests declare
    Agent(AgentArgs),
    /// Show containers, data containers, volumes, config maps and secrets
    #[command(visible_aliases = ["ps"])]
    Get(GetArgs),
    /// Show an object in full: what is declared, what it does, what happened to it
    Describe(DescribeArgs),
    /// Print what a container wrote
    Logs(LogsArgs),
    /// Talk to the program of a container: see what it writes, and type
    Attach(AttachArgs),
    /// Copy files into or out of a container
    Cp(CpArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Show the processes of a container
    Top(TopArgs),
    /// Show what containers use: processor, memory, network, block devices, processes
    Stats(StatsArgs),
    /// Show what a container has changed in its root filesystem
    Diff(DiffArgs),
    /// Make an image of what a container has changed
    Commit(CommitArgs),
    /// Write a container's root filesystem as a tar archive
    Export(ExportArgs),
    /// Declare the objects in files, directories or standard input
    Apply(ApplyArgs),
    /// Remove objects that were declared with `apply`
    Delete(DeleteArgs),
    /// Stop containers and hold them stopped until `start`
    Stop(StopArgs),
    /// Let stopped containers run again
    Start(StartArgs),
    /// Stop containers and start them again, once
    Restart(StopArgs),
    /// Show what the agent would do now, without doing it
    Plan(PlanArgs),
    /// Check manifests without an agent, or by a cluster's API server
    Validate(ValidateArgs),
    /// Show what happened lately
    Events(EventsArgs),
    /// List the images on this machine
    Images(ImagesArgs),
    /// Fetch images from their registry, even where a copy is here
    Pull(PullArgs),
    /// Work with images
    Image(ImageArgs),
    /// Remove images from this machine
    Rmi(RmiArgs),
    /// Wait until a condition of an object holds, or the object is gone
    Wait(WaitForArgs),
    /// Show how images and root filesystems are stored
    Storage(StorageArgs),
    /// Show what takes room on disk, and remove what nothing needs
    System(SystemArgs),
    /// Show, check and reload the agent's configuration
    Config(ConfigArgs),
    /// Work with the data of volumes
    Volume(VolumeArgs),
    /// Say whether the agent is well
    Health(HealthArgs),
    /// From a privileged pod, run a command of stower on the host
    HostRun(HostRunArgs),
    /// Work on all agents of a cluster, through its API server
    Cluster(ClusterArgs),
    /// Work with the nodes of a cluster
    Node(NodeArgs),
    /// Print the custom resource definitions for a Kubernetes API server
    Crds,
    /// Print the version of this program and of the agent
    Version(VersionArgs),
    /// Print a shell's completion script
    #[command(after_help = "For bash: `source <(stower completion bash)`, or write it to \
                            /etc/bash_completion.d/stower")]
    Completion(CompletionArgs),
}

/// `stower agent`. What is not given comes from the environment, then from the configuration file, then from the default.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Every field of the configuration file has a variable of the environment, STOWER_ and its name: STOWER_DATA_ROOT,\n\
                  STOWER_IMAGES_GC_MIN_AGE. A flag wins over the environment, that over the file. `stower config show` tells\n\
                  what counts, and what the agent takes over while it runs when the file changes."
)]
pub struct AgentArgs {
    /// The directory of manifests [default: /etc/stower/manifests]
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Where durable state is kept [default: /var/lib/stower]
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Where state that ends with a reboot is kept [default: /run/stower]
    #[arg(long, value_name = "DIR")]
    pub run_root: Option<PathBuf>,
    /// The configuration file; without the flag it may be missing [default: /etc/stower/config.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The name of this node, for `spec.nodeName` [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// How root filesystems are stored: overlay, btrfs or native [default: what is in use, else the first that works here]
    #[arg(long, value_name = "NAME")]
    pub storage_driver: Option<String>,
    /// An option of the storage driver; may be repeated
    #[arg(long = "storage-opt", value_name = "K=V")]
    pub storage_opt: Vec<String>,
    /// What keeps a new Volume with driver local within its capacity: image, or project-quota on XFS [default: image]
    #[arg(long, value_name = "KIND")]
    pub volume_capacity: Option<String>,
    /// Serve /metrics, /healthz and /readyz at this address too, to whoever reaches it
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: Option<String>,
    /// A registry to speak plain HTTP with; may be repeated
    #[arg(long = "insecure-registry", value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// Take an empty manifests directory as proof that everything in it was removed
    #[arg(long)]
    pub allow_empty: bool,
    /// Take objects of this node from a Kubernetes API server too; without `--kubeconfig` the one of the pod that this is
    #[arg(long)]
    pub kube: bool,
    /// The file that says where the API server is and who asks, as for the kubelet; means `--kube`
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of that file [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub kube_context: Option<String>,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// The table with more columns
    Wide,
    /// JSON, as the agent has it
    Json,
    /// YAML, as the agent has it
    Yaml,
    /// Names only, as `container.stower.dev/NAME` or `secret/NAME`
    Name,
}

/// How anything that is not a table of objects is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataOutput {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// `stower get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stower get\n  stower get web -o yaml\n  stower get containers,volumes -A -l app=web -o wide\n  stower get -w"
)]
pub struct GetArgs {
    /// Kinds (containers, volumes, datacontainers, configmaps, secrets, all), names, or KIND/NAME; all containers by default
    #[arg(value_name = "KIND|NAME|KIND/NAME")]
    pub targets: Vec<String>,
    /// How to print: wide, json, yaml or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<Output>,
    /// Only objects with these labels, as in `app=web,tier!=db,env in (a,b)`
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects with these fields: metadata.name, metadata.namespace, spec.nodeName
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Go on printing every change
    #[arg(short, long)]
    pub watch: bool,
    /// Print changes only, not what is there already
    #[arg(long)]
    pub watch_only: bool,
    /// Print the labels as a last column
    #[arg(long)]
    pub show_labels: bool,
    /// Leave out the table's headings
    #[arg(long)]
    pub no_headers: bool,
    /// Do not fail when an object is not there
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Show in JSON and YAML who manages which field, which an API server keeps
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// `stower describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// A kind, names, or KIND/NAME; all containers by default
    #[arg(value_name = "KIND|NAME|KIND/NAME")]
    pub targets: Vec<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
}

/// `stower logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The container, as NAME or container/NAME
    pub name: String,
    /// Go on printing what it writes, over restarts, until it is removed or has ended for good
    #[arg(short, long)]
    pub follow: bool,
    /// Only lines younger than this, such as 90s, 10m or 2h30m
    #[arg(long, value_name = "DURATION", conflicts_with = "since_time")]
    pub since: Option<String>,
    /// Only lines since this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since_time: Option<String>,
    /// Only the last N lines; -1 for all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    pub tail: i64,
    /// The run before the present one
    #[arg(short, long)]
    pub previous: bool,
    /// Put the time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// At most this many bytes
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
}

/// `stower attach`.
#[derive(Debug, Args)]
#[command(
    after_help = "Shows what the container writes from now on (`stower logs` has what it wrote before), until it ends or you leave;\nit goes on then. The exit code is the container's. Who does not read fast enough is cut off.\n\nExamples:\n  stower attach web\n  stower attach -it shell"
)]
pub struct AttachArgs {
    /// Pass standard input to the container, which has spec.stdin
    #[arg(short = 'i', long = "stdin", visible_alias = "interactive")]
    pub stdin: bool,
    /// Use this terminal for that of the container, which has spec.tty
    #[arg(short, long)]
    pub tty: bool,
    /// The keys that leave the container
    #[arg(long, value_name = "KEYS", default_value = crate::cli::DETACH_KEYS)]
    pub detach_keys: String,
    /// The container, as NAME or container/NAME
    pub name: String,
}

/// `stower exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "The command has the whole confinement of the container, and ends with this one unless it is detached from. The\nexit code is the command's; 126 when it could not be started, 127 when it was not found.\n\nExamples:\n  stower exec web -- ls -l /\n  stower exec -it web -- sh\n  stower exec -u postgres db -- psql -c 'select 1'\n  stower exec -i db -- psql < dump.sql"
)]
pub struct ExecArgs {
    /// Pass standard input to the command
    #[arg(short = 'i', long = "stdin", visible_alias = "interactive")]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// As whom, as in `postgres`, `1000` or `1000:1000`; looked up in the container [default: its own user]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Where, an absolute path in the container [default: its own working directory]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A variable for it, as NAME=value, or NAME for the one of here; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = crate::cli::DETACH_KEYS)]
    pub detach_keys: String,
    /// The container, as NAME or container/NAME
    pub name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `stower cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "One of the two is NAME:PATH, the other a path of here, which begins with / or . where it has a colon in it. A\ndirectory is copied with all below it: into a directory that is there, or as one that is not yet; with /. at the end\nits content alone. Links are copied as links, devices not at all. What comes into a container belongs to its root, what\ncomes out of one to you; --archive keeps owners, modes and attributes.\n\nExamples:\n  stower cp web:/etc/nginx/nginx.conf .\n  stower cp site/. web:/usr/share/nginx/html"
)]
pub struct CpArgs {
    /// Keep owners, set-id bits and extended attributes
    #[arg(short, long)]
    pub archive: bool,
    /// What is copied
    pub source: String,
    /// Where to
    pub destination: String,
}

/// `stower top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The container, as NAME or container/NAME
    pub name: String,
}

/// `stower stats`.
#[derive(Debug, Args)]
#[command(
    after_help = "100% of CPU is one whole processor. Memory is without what the kernel could drop at once. The network of a\ncontainer on the host's is not counted.\n\nExamples:\n  stower stats\n  stower stats --no-stream web db"
)]
pub struct StatsArgs {
    /// Containers, as NAME or container/NAME [default: all that run]
    pub names: Vec<String>,
    /// Print once, instead of again every second
    #[arg(long)]
    pub no_stream: bool,
}

/// `stower diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each line is A (added), C (changed) or D (deleted) and a path. A directory on the way to a change is\nchanged too; what was in a deleted one is not told.\n\nExamples:\n  stower diff web\n  stower diff web | grep '^D'"
)]
pub struct DiffArgs {
    /// The container, as NAME or container/NAME
    pub name: String,
}

/// `stower commit`.
#[derive(Debug, Args)]
#[command(
    after_help = "The new image is the one that the container was started from, with its changes as one more layer; volumes\nare not part of it. Prints the digest of the new image.\n\nExamples:\n  stower commit web example.org/web:fixed -m 'a fix'\n  stower commit web example.org/web:debug -c 'CMD [\"sleep\", \"1d\"]' -c 'ENV DEBUG=1'\n  stower commit --pause=false web"
)]
pub struct CommitArgs {
    /// The container, as NAME or container/NAME
    pub name: String,
    /// The name of the image; without one it is known by its digest
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
    /// Who made it, as in `Jo <jo@example.org>`
    #[arg(short, long)]
    pub author: Option<String>,
    /// What for
    #[arg(short, long)]
    pub message: Option<String>,
    /// A change to the image's configuration, as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR; may be repeated
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Let the container stand still while it is read
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true",
          require_equals = true, action = ArgAction::Set)]
    pub pause: bool,
}

/// `stower export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Volumes are not part of it, and the container goes on meanwhile.\n\nExamples:\n  stower export web -o web.tar\n  stower export web | tar -t"
)]
pub struct ExportArgs {
    /// The container, as NAME or container/NAME
    pub name: String,
    /// The file to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Whether anything is really changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Change it
    #[default]
    None,
    /// Ask the agent whether it would take it
    Server,
}

/// `stower apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stower apply -f web.yaml\n  stower apply -f manifests/ -R --dry-run=server\n  cat web.yaml | stower apply -f -"
)]
pub struct ApplyArgs {
    /// A file, a directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub filename: Vec<String>,
    /// Take the folders in a directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Change nothing: only ask the agent whether it would [values: server, none]
    #[arg(long, value_enum, value_name = "WHERE", hide_possible_values = true, hide_default_value = true, default_value = "none", num_args = 0..=1, default_missing_value = "server", require_equals = true)]
    pub dry_run: DryRun,
    /// How to print what is there after it: json, yaml or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<Output>,
    /// Take over fields that others manage; an API server refuses to change those otherwise
    #[arg(long)]
    pub force_conflicts: bool,
    /// Wait until all of it is ready
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, such as 30s or 5m; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait")]
    pub timeout: String,
}

/// Which objects a verb is about.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Names, or KIND/NAME
    #[arg(value_name = "NAME")]
    pub targets: Vec<String>,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "targets")]
    pub selector: Option<String>,
    /// All of them
    #[arg(long, conflicts_with_all = ["targets", "selector"])]
    pub all: bool,
}

/// Whether a verb returns before what it asked for has happened.
#[derive(Debug, Clone, Default, Args)]
pub struct WaitArgs {
    /// Wait until it has happened; `stop` and `delete` do unless --wait=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true,
          action = ArgAction::Set)]
    pub wait: Option<bool>,
    /// How long to wait, such as 30s or 5m; 0 for ever [default: 5m for what may never happen, else 0]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
}

/// `stower delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// The objects in a file, a directory or standard input (-); may be repeated
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", conflicts_with_all = ["targets", "selector", "all"])]
    pub filename: Vec<String>,
    /// Take the folders in a directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Do not fail when an object is not there
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Change nothing: only ask the agent whether it would [values: server, none]
    #[arg(long, value_enum, value_name = "WHERE", hide_possible_values = true, hide_default_value = true, default_value = "none", num_args = 0..=1, default_missing_value = "server", require_equals = true)]
    pub dry_run: DryRun,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `stower stop` and `stower restart`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// Seconds between the stop signal and the kill, instead of spec.terminationGracePeriodSeconds
    #[arg(long, value_name = "SECONDS", visible_alias = "time", short = 't')]
    pub grace_period: Option<u32>,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `stower start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// Waiting.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `stower plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
    /// Exit with 2 when there is something to do
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `stower validate`.
#[derive(Debug, Args)]
#[command(
    after_help = "With --context or --kubeconfig the API server is asked, without changing anything: it knows what is there already,\nand who may do what.\n\nExamples:\n  stower validate -f web.yaml\n  stower validate -f manifests/ -R --context prod"
)]
pub struct ValidateArgs {
    /// A file, a directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub filename: Vec<String>,
    /// Take the folders in a directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Print only what is wrong
    #[arg(short, long)]
    pub quiet: bool,
}

/// `stower events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only those of one object, as NAME or container/NAME
    #[arg(long = "for", value_name = "NAME")]
    pub for_object: Option<String>,
    /// Only these types, such as Warning
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    pub types: Vec<String>,
    /// Go on printing what happens
    #[arg(short, long)]
    pub watch: bool,
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
    /// Leave out the table's headings
    #[arg(long)]
    pub no_headers: bool,
}

/// `stower images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Only those whose reference has this in it
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    /// How to print: wide, json, yaml or name
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<Output>,
    /// Print digests only
    #[arg(short, long, conflicts_with = "output")]
    pub quiet: bool,
    /// Print digests in full
    #[arg(long)]
    pub no_trunc: bool,
    /// Leave out the table's headings
    #[arg(long)]
    pub no_headers: bool,
}

/// `stower pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Image references, such as nginx:1.29 or registry.example/app@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub references: Vec<String>,
    /// Print nothing but the digest
    #[arg(short, long)]
    pub quiet: bool,
}

/// `stower image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What `stower image` does.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Take images from an OCI layout directory, or from an archive of `docker save` or `skopeo`
    Import(ImportArgs),
    /// List the images on this machine
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Fetch images from their registry
    Pull(PullArgs),
    /// Write images as one archive, which `image import` and `docker load` read
    Save(SaveArgs),
    /// Remove images from this machine
    Rm(RmiArgs),
}

/// `stower image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The directory or archive; the agent reads it
    pub path: PathBuf,
    /// The reference to know it by, instead of those it brings along
    #[arg(value_name = "IMAGE")]
    pub name: Option<String>,
}

/// `stower image save`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  stower image save nginx:1.29 -o nginx.tar\n  stower image save app:1 app:2 | ssh other 'cat > apps.tar'"
)]
pub struct SaveArgs {
    /// Image references or digests
    #[arg(value_name = "IMAGE", required = true)]
    pub references: Vec<String>,
    /// The file to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `stower rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Image references or digests
    #[arg(value_name = "IMAGE", required = true)]
    pub references: Vec<String>,
}

/// `stower version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Do not ask the agent
    #[arg(long)]
    pub client: bool,
    /// How to print: json or yaml
    #[arg(short, long, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Option<DataOutput>,
}

/// A shell that a completion script can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// `stower completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

#[cfg(test)]
mod tests;
