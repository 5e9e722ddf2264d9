//! The command line, with the names that callers of OCI runtimes use.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::create::{self, Request};
use super::error::{OciError, Result};
use super::io::{self, Relay, Signals};
use super::log::Log;
use super::plan::Options;
use super::state::{OCI_VERSION, Store};
use super::{exec, features, operate, update};

/// An OCI runtime: containers from bundles, by the specification.
#[derive(Debug, Parser)]
#[command(name = "stower-runtime", version = VERSION, disable_help_subcommand = true)]
pub(super) struct Args {
    /// Where the state of containers is kept; for its owner alone.
    #[arg(long, default_value = "/run/stower-runtime", value_name = "DIR")]
    pub(super) root: PathBuf,
    /// A file that messages are added to.
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// The form of messages in that file.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
    /// More messages in that file.
    #[arg(long)]
    pub(super) debug: bool,
    /// Groups by systemd; this runtime makes them itself and refuses.
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    #[command(subcommand)]
    command: Command,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1");

/// The form of messages in the log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// One line of `key=value` each.
    Text,
    /// One object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container; its process waits for `start`.
    Create(Create),
    /// Start the process of a created container.
    Start { id: String },
    /// Print the state of a container.
    State { id: String },
    /// Send a signal to the first process of a container.
    Kill {
        /// To all processes of the container.
        #[arg(long, short)]
        all: bool,
        id: String,
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Delete a stopped container and all that was made for it.
    Delete {
        /// Kill it before; none there is no error.
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Create a container, start it, and delete it after its end.
    Run {
        #[command(flatten)]
        create: Create,
        /// Leave it running.
        #[arg(long, short)]
        detach: bool,
        /// Do not delete it after its end.
        #[arg(long)]
        keep: bool,
    },
    /// Run one more process in a container.
    Exec(Box<Exec>),
    /// List containers.
    List {
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// Ids only.
        #[arg(long, short)]
        quiet: bool,
    },
    /// List the processes of a container.
    Ps {
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        format: Format,
        id: String,
        /// Options of ps(1).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Stop every process of a container where it is.
    Pause { id: String },
    /// Let the processes of a paused container go on.
    Resume { id: String },
    /// Change the limits of a container.
    Update(Box<Update>),
    /// Print what a container uses, until it ends.
    Events {
        /// Print once.
        #[arg(long)]
        stats: bool,
        /// How often, such as 5s or 500ms.
        #[arg(long, default_value = "5s", value_parser = duration)]
        interval: Duration,
        id: String,
    },
    /// Print what of the specification is done.
    Features,
    /// Write a config.json to begin with.
    Spec {
        #[arg(long, short, default_value = ".")]
        bundle: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
struct Create {
    /// The directory with config.json.
    #[arg(long, short, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// A socket that gets the terminal's master.
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// A file that the pid of the first process is written to.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Refused: the root is always entered by pivot_root.
    #[arg(long)]
    no_pivot: bool,
    /// Share the session keyring of the caller.
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors above the standard ones the container gets.
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    id: String,
}

#[derive(Debug, ClapArgs)]
struct Exec {
    /// A file with the whole process.
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// A terminal for it.
    #[arg(long, short)]
    tty: bool,
    /// Its user, by number.
    #[arg(long, short, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Further groups.
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Its working directory.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variables, beside those of the container.
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Do not wait for its end.
    #[arg(long, short)]
    detach: bool,
    /// A file that its pid is written to.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// A socket that gets the terminal's master.
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Further capabilities.
    #[arg(long, short, value_name = "CAP")]
    cap: Vec<String>,
    /// No more privileges by set-id files.
    #[arg(long)]
    no_new_privs: bool,
    /// Its AppArmor profile.
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Its SELinux label.
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// How many descriptors above the standard ones it gets.
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// In a paused container too; it stands still there.
    #[arg(long)]
    ignore_paused: bool,
    id: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, ClapArgs)]
struct Update {
    /// A file with `linux.resources`; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    resources: Option<PathBuf>,
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_idle: Option<i64>,
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory: Option<i64>,
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let number = |unit: &str| text.strip_suffix(unit).and_then(|n| n.parse::<u64>().ok());
    let duration = number("ms")
        .map(Duration::from_millis)
        .or_else(|| number("s").map(Duration::from_secs))
        .or_else(|| number("m").map(|m| Duration::from_secs(m * 60)));
    duration.filter(|d| !d.is_zero()).ok_or_else(|| "give it as 5s, 500ms or 1m".to_owned())
}

/// Does what is asked; the result is the exit code.
pub(super) fn run(args: &Args, log: &Log) -> Result<u8> {
    if args.systemd_cgroup {
        return Err(OciError::Usage(
            "--systemd-cgroup: not supported by this version; use the cgroupfs manager of the caller"
                .to_owned(),
        ));
    }
    if matches!(args.command, Command::Create(_) | Command::Run { .. } | Command::Exec(_)) {
        refuse_rootless()?;
        seal()?;
    }
    let store = || Store::open(&args.root);
    match &args.command {
        Command::Create(c) => create::create(&store()?, &request(c)?, None, log).map(|_| 0),
        Command::Start { id } => operate::start(&store()?.find(id)?, log).map(|()| 0),
        Command::State { id } => print(&operate::show(&store()?.find(id)?)?),
        Command::Kill { all, id, signal } => operate::kill(&store()?.find(id)?, signal, *all).map(|()| 0),
        Command::Delete { force, id } => operate::delete(&store()?, id, *force, log).map(|()| 0),
        Command::Run { create, detach, keep } => run_whole(&store()?, create, *detach, *keep, log),
        Command::Exec(e) => run_exec(&store()?, e),
        Command::List { format, quiet } => list(&operate::list(&store()?, log)?, *format, *quiet),
        Command::Ps { format, id, options } => {
            ps(&operate::processes(&store()?.find(id)?)?, *format, options)
        }
        Command::Pause { id } => operate::pause(&store()?.find(id)?, true).map(|()| 0),
        Command::Resume { id } => operate::pause(&store()?.find(id)?, false).map(|()| 0),
        Command::Update(u) => update::update(&store()?.find(&u.id)?, resources(u)?).map(|()| 0),
        Command::Events { stats, interval, id } => events(&store()?, id, *stats, *interval),
        Command::Features => print(&features::features()),
        Command::Spec { bundle } => spec(bundle),
    }
}

/// Another user's tries would fail at whatever comes first, and not say why.
fn refuse_rootless() -> Result<()> {
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(OciError::Usage(format!(
            "rootless use is not supported: run it as root, not as user {}; `linux.uidMappings` keep a container's root apart from the host's",
            user.as_raw()
        )));
    }
    Ok(())
}

/// Goes on as the same program from a mount that nobody can write through: what enters a container shows its file there.
fn seal() -> Result<()> {
    let own = Path::new("/proc/self/exe");
    let fail = |e: std::io::Error| OciError::io("sealing the own program", e);
    let stat = rustix::fs::statvfs(own).map_err(|e| fail(e.into()))?;
    if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let sealed = crate::mounts::sealed_program(own).map_err(fail)?;
    let path = std::ffi::CString::new(crate::mounts::fd_path(&sealed)).map_err(|e| fail(e.into()))?;
    use std::os::unix::ffi::OsStrExt;
    let args: Vec<_> = std::env::args_os().collect();
    let env: Vec<_> =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let args = crate::start::sys::ExecVector::new(args.iter().map(|a| a.as_bytes()));
    let env = crate::start::sys::ExecVector::new(env.iter());
    Err(fail(crate::start::sys::execve(&path, &args, &env)))
}

fn request(c: &Create) -> Result<Request> {
    if c.no_pivot {
        return Err(OciError::Usage(
            "--no-pivot: not supported by this version; keep the bundle on another filesystem than the initramfs"
                .to_owned(),
        ));
    }
    Ok(Request {
        options: Options {
            id: c.id.clone(),
            bundle: c.bundle.clone(),
            preserve_fds: c.preserve_fds,
            no_new_keyring: c.no_new_keyring,
        },
        console_socket: c.console_socket.clone(),
        pid_file: c.pid_file.clone(),
    })
}

/// Two ends: the container's, and ours.
fn console_pair() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| OciError::io("making a socket", e))
}

fn run_whole(store: &Store, c: &Create, detach: bool, keep: bool, log: &Log) -> Result<u8> {
    let request = request(c)?;
    if detach {
        let created = create::create(store, &request, None, log)?;
        return match operate::start(&created.container, log) {
            Ok(()) => Ok(0),
            Err(e) => {
                operate::delete(store, &c.id, true, log)?;
                Err(e)
            }
        };
    }
    let signals = Signals::block()?;
    let (theirs, ours) = console_pair()?;
    let console = c.console_socket.is_none().then_some(theirs);
    let created = create::create(store, &request, console, log)?;
    // Before the lock of the creation is let go, nobody else can start or delete it.
    let result = (|| {
        let spec = created.container.config()?;
        let terminal = spec.process().as_ref().is_some_and(|p| p.terminal() == Some(true));
        let relay = (terminal && c.console_socket.is_none()).then(|| Relay::new(&ours)).transpose()?;
        operate::start(&created.container, log)?;
        io::wait(&created.pidfd, &signals, relay.as_ref())
    })();
    drop(created);
    if !keep || result.is_err() {
        operate::delete(store, &c.id, true, log)?;
    }
    result
}

fn run_exec(store: &Store, e: &Exec) -> Result<u8> {
    if e.process.is_none() && e.args.is_empty() {
        return Err(OciError::Usage("give a command, or --process".to_owned()));
    }
    let container = store.find(&e.id)?;
    let request = exec::Request {
        process: e.process.clone(),
        args: e.args.clone(),
        tty: e.tty,
        user: e.user.clone(),
        additional_gids: e.additional_gids.clone(),
        cwd: e.cwd.clone(),
        env: e.env.clone(),
        caps: e.cap.clone(),
        no_new_privs: e.no_new_privs,
        apparmor: e.apparmor.clone(),
        process_label: e.process_label.clone(),
        pid_file: e.pid_file.clone(),
        console_socket: e.console_socket.clone(),
        preserve_fds: e.preserve_fds,
        ignore_paused: e.ignore_paused,
    };
    if e.detach {
        return exec::exec(&container, &request, None).map(|_| 0);
    }
    let signals = Signals::block()?;
    let (theirs, ours) = console_pair()?;
    let own = e.console_socket.is_none();
    let executing = exec::exec(&container, &request, own.then_some(theirs))?;
    let relay = (e.tty && own).then(|| Relay::new(&ours)).transpose()?;
    io::wait(&executing.pidfd, &signals, relay.as_ref())
}

fn print(value: &Value) -> Result<u8> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| OciError::Json { what: "the answer".to_owned(), source })?;
    out(&text)
}

fn out(text: &str) -> Result<u8> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(OciError::io("standard output", e)),
        _ => Ok(0),
    }
}

fn list(all: &[Value], format: Format, quiet: bool) -> Result<u8> {
    let text = |v: &Value, key: &str| match &v[key] {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    if quiet {
        let ids: Vec<String> = all.iter().map(|v| text(v, "id")).collect();
        return if ids.is_empty() { Ok(0) } else { out(&ids.join("\n")) };
    }
    if format == Format::Json {
        return out(&Value::from(all.to_vec()).to_string());
    }
    const KEYS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
    let mut rows = vec![KEYS.map(str::to_uppercase).to_vec()];
    rows.extend(all.iter().map(|v| KEYS.iter().map(|k| text(v, k)).collect()));
    out(&table(&rows))
}

fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|r| r.get(column).map_or(0, String::len)).max().unwrap_or(0);
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().enumerate().map(|(i, cell)| format!("{cell:<w$}", w = width(i))).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

fn ps(pids: &[i32], format: Format, options: &[String]) -> Result<u8> {
    if format == Format::Json {
        return out(&json!(pids).to_string());
    }
    let usual = ["-ef".to_owned()];
    let options = if options.is_empty() { &usual[..] } else { options };
    let output = std::process::Command::new("ps")
        .args(options)
        .output()
        .map_err(|e| OciError::io("executing ps (--format json does without)", e))?;
    if !output.status.success() {
        return Err(OciError::Usage(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|c| c == "PID") else {
        return Err(OciError::Usage("ps prints no column PID; give other options".to_owned()));
    };
    let own = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|p| p.parse().ok());
        pid.is_some_and(|p: i32| pids.contains(&p))
    };
    let lines: Vec<&str> = std::iter::once(head).chain(lines.filter(own)).collect();
    out(&lines.join("\n"))
}

fn events(store: &Store, id: &str, once: bool, interval: Duration) -> Result<u8> {
    let container = store.find(id)?;
    let mut killed = operate::oom_kills(&container)?;
    loop {
        out(&operate::stats(&container)?.to_string())?;
        if once {
            return Ok(0);
        }
        std::thread::sleep(interval);
        let Ok(false) = operate::has_stopped(&container) else { return Ok(0) };
        let now = operate::oom_kills(&container)?;
        if now > killed {
            killed = now;
            out(&json!({ "type": "oom", "id": id }).to_string())?;
        }
    }
}

fn resources(u: &Update) -> Result<LinuxResources> {
    if let Some(path) = &u.resources {
        let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
        return super::state::read_json(path);
    }
    let mut value = json!({});
    let mut set = |group: &str, key: &str, given: Option<Value>| {
        if let Some(given) = given {
            value[group][key] = given;
        }
    };
    set("blockIO", "weight", u.blkio_weight.map(Value::from));
    set("cpu", "period", u.cpu_period.map(Value::from));
    set("cpu", "quota", u.cpu_quota.map(Value::from));
    set("cpu", "burst", u.cpu_burst.map(Value::from));
    set("cpu", "shares", u.cpu_share.map(Value::from));
    set("cpu", "realtimePeriod", u.cpu_rt_period.map(Value::from));
    set("cpu", "realtimeRuntime", u.cpu_rt_runtime.map(Value::from));
    set("cpu", "idle", u.cpu_idle.map(Value::from));
    set("cpu", "cpus", u.cpuset_cpus.clone().map(Value::from));
    set("cpu", "mems", u.cpuset_mems.clone().map(Value::from));
    set("memory", "limit", u.memory.map(Value::from));
    set("memory", "reservation", u.memory_reservation.map(Value::from));
    set("memory", "swap", u.memory_swap.map(Value::from));
    set("pids", "limit", u.pids_limit.map(Value::from));
    serde_json::from_value(value).map_err(|source| OciError::Json { what: "the limits".to_owned(), source })
}

fn spec(bundle: &Path) -> Result<u8> {
    let path = bundle.join("config.json");
    let mut spec = crate::defaults::spec();
    let mut root = oci_spec::runtime::Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(true));
    spec.set_version(OCI_VERSION.to_owned()).set_root(Some(root)).set_hostname(Some("stower".to_owned()));
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(vec!["sh".to_owned()])).set_terminal(Some(true));
    }
    let text = serde_json::to_string_pretty(&spec)
        .map_err(|source| OciError::Json { what: path.display().to_string(), source })?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| OciError::io(path.display(), e))?;
    writeln!(file, "{text}").map_err(|e| OciError::io(path.display(), e)).map(|()| 0)
}
