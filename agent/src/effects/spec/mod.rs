//! From a declared container and its image to an OCI runtime specification: pure.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDevice, LinuxNamespaceBuilder, LinuxNamespaceType, Mount,
    PosixRlimit, PosixRlimitBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use stower_controllers::{ResolvedMount, Variable};
use stower_crds::{ContainerSpec, ProfileType};
use stower_runtime::defaults::{
    MASKED_PATHS, PATH, READONLY_PATHS, SHM_SIZE, mount as mount_of, mounts as usual_mounts,
};
use stower_storage::ImageConfig;

mod caps;
mod expand;
#[cfg(test)]
mod tests;

/// All that the specification is made from.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    /// The declared spec.
    pub spec: &'a ContainerSpec,
    /// The object's name: the host name unless the spec gives one.
    pub name: &'a str,
    /// What the image says. Hostile.
    pub image: &'a ImageConfig,
    /// What is mounted beside the usual.
    pub mounts: &'a [ResolvedMount],
    /// The declared variables, with the values that they come from.
    pub env: &'a [Variable],
    /// The directory that holds `resolv.conf`, `hosts` and `hostname`.
    pub files: &'a Path,
    /// The machine's devices, for a privileged container.
    pub host_devices: Vec<LinuxDevice>,
    /// The devices that the spec asks for, looked up on the host.
    pub devices: Vec<LinuxDevice>,
    /// The capabilities that the agent itself has, one bit each.
    pub own_caps: u64,
    /// The machine's own host name, for a container in its network.
    pub host_name: &'a str,
}

/// The specification, and what OCI has no words for.
#[derive(Debug)]
pub(crate) struct Built {
    /// The specification.
    pub spec: Spec,
    /// `user[:group]`, to be looked up in the image's own files.
    pub user: Option<String>,
    /// The capabilities that the usual seccomp filter is made for; `None` where none is loaded.
    pub seccomp: Option<u64>,
}

/// Why no process can be made from what is declared; the object's author can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    /// Neither the spec nor the image names a command.
    #[error("no command: the image has neither Entrypoint nor Cmd; set spec.command")]
    NoCommand,
    /// The image would run as root, or it cannot be told.
    #[error(
        "spec.securityContext.runAsNonRoot: the image's user {user:?} {problem}; set spec.securityContext.runAsUser to a number other than 0"
    )]
    Root {
        /// As the image has it.
        user: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A capability is not known.
    #[error("spec.securityContext.capabilities: {0:?} is not a capability")]
    Capability(String),
    /// The image's own values make no valid process.
    #[error("the image's configuration cannot be run: {0}")]
    Image(String),
}

fn built<T>(result: Result<T, impl std::fmt::Display>) -> Result<T, SpecError> {
    result.map_err(|error| SpecError::Image(error.to_string()))
}

/// Makes the specification.
///
/// # Errors
/// When the spec and the image together make no process.
pub(crate) fn build(input: &Input<'_>) -> Result<Built, SpecError> {
    let spec = input.spec;
    let security = &spec.security_context;
    let privileged = security.privileged == Some(true);
    let env = environment(input);
    let args = command(input, &env)?;
    let user = user(input)?;
    let caps = caps::resolve(security.capabilities.as_ref(), privileged, input.own_caps)?;
    let host_name =
        spec.hostname.as_deref().unwrap_or(if spec.host_network { input.host_name } else { input.name });

    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        .args(args)
        .env(env)
        .cwd(working_dir(input))
        .no_new_privileges(security.allow_privilege_escalation == Some(false))
        .capabilities(built(capabilities(caps))?)
        .rlimits(rlimits(spec)?);
    let groups: Vec<u32> =
        security.supplemental_groups.iter().filter_map(|g| u32::try_from(*g).ok()).collect();
    process =
        process.user(built(UserBuilder::default().uid(0u32).gid(0u32).additional_gids(groups).build())?);

    let devices = if privileged { input.host_devices.clone() } else { input.devices.clone() };
    let paths = |list: &[&str]| -> Vec<String> {
        if privileged { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() }
    };
    let linux = LinuxBuilder::default()
        .namespaces(built(namespaces(spec))?)
        .devices(devices)
        .masked_paths(paths(&MASKED_PATHS))
        .readonly_paths(paths(&READONLY_PATHS));
    let mut linux = built(linux.build())?;
    linux.set_resources(None);
    linux.set_seccomp(None);

    let mut oci = built(
        SpecBuilder::default()
            .process(built(process.build())?)
            .root(built(
                RootBuilder::default()
                    .path("rootfs")
                    .readonly(security.read_only_root_filesystem == Some(true))
                    .build(),
            )?)
            .mounts(mounts(input, privileged)?)
            .hostname(host_name)
            .linux(linux)
            .build(),
    )?;
    oci.set_hooks(None);
    let confined = !privileged
        && security.seccomp_profile.as_ref().is_none_or(|profile| profile.type_ != ProfileType::Unconfined);
    Ok(Built { spec: oci, user, seccomp: confined.then_some(caps) })
}

/// The image's environment, then the spec's over it; `$(NAME)` in the spec's values refers to what came before.
fn environment(input: &Input<'_>) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| match env.iter_mut().find(|(known, _)| known == name) {
        Some(slot) => slot.1 = value,
        None => env.push((name.to_owned(), value)),
    };
    set("PATH", PATH.to_owned());
    let host_name = input.spec.hostname.as_deref().unwrap_or(input.name);
    set("HOSTNAME", host_name.to_owned());
    for pair in &input.image.env {
        if let Some((name, value)) = pair.split_once('=') {
            set(name, value.to_owned());
        }
    }
    for var in input.env {
        let value = if var.expand { expand::expand(&var.value, &env) } else { var.value.clone() };
        match env.iter_mut().find(|(known, _)| *known == var.name) {
            Some(slot) => slot.1 = value,
            None => env.push((var.name.clone(), value)),
        }
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// As in a Pod: `command` replaces the image's Entrypoint and, with it, its Cmd; `args` replaces Cmd.
fn command(input: &Input<'_>, env: &[String]) -> Result<Vec<String>, SpecError> {
    let (spec, image) = (input.spec, input.image);
    let known: Vec<(String, String)> = env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let declared =
        |words: &[String]| words.iter().map(|word| expand::expand(word, &known)).collect::<Vec<_>>();
    let args = match (spec.command.is_empty(), spec.args.is_empty()) {
        (false, _) => [declared(&spec.command), declared(&spec.args)].concat(),
        (true, false) => [image.entrypoint.clone(), declared(&spec.args)].concat(),
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    };
    if args.is_empty() { Err(SpecError::NoCommand) } else { Ok(args) }
}

fn working_dir(input: &Input<'_>) -> PathBuf {
    let image = Some(input.image.working_dir.as_str()).filter(|dir| !dir.is_empty());
    let dir = input.spec.working_dir.as_deref().or(image).unwrap_or("/");
    // An image may give a relative one; it means below the root.
    Path::new("/").join(dir)
}

fn user(input: &Input<'_>) -> Result<Option<String>, SpecError> {
    let security = &input.spec.security_context;
    let image = input.image.user.as_str();
    let (image_user, image_group) = match image.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image, None),
    };
    let user = match security.run_as_user {
        Some(uid) => uid.to_string(),
        None => image_user.to_owned(),
    };
    if security.run_as_non_root == Some(true) {
        let problem = match (user.parse::<u64>(), user.is_empty()) {
            (Ok(0), _) | (_, true) => Some("is root"),
            (Err(_), false) => Some("is a name, which an image may point at root"),
            (Ok(_), false) => None,
        };
        if let Some(problem) = problem {
            return Err(SpecError::Root { user, problem });
        }
    }
    let group = match (security.run_as_group, security.run_as_user) {
        (Some(gid), _) => Some(gid.to_string()),
        // The image's group belongs to the image's user.
        (None, Some(_)) => None,
        (None, None) => image_group.map(str::to_owned),
    };
    Ok(match (user.as_str(), group) {
        ("", None) => None,
        ("", Some(group)) => Some(format!("0:{group}")),
        (user, None) => Some(user.to_owned()),
        (user, Some(group)) => Some(format!("{user}:{group}")),
    })
}

fn capabilities(caps: u64) -> Result<oci_spec::runtime::LinuxCapabilities, oci_spec::OciSpecError> {
    let all = || stower_runtime::caps::to_oci(caps);
    LinuxCapabilitiesBuilder::default()
        .bounding(all())
        .effective(all())
        .permitted(all())
        // Inheritable ones would let a program with file capabilities get more than it should (CVE-2022-24769).
        .inheritable(oci_spec::runtime::Capabilities::new())
        .ambient(oci_spec::runtime::Capabilities::new())
        .build()
}

fn rlimits(spec: &ContainerSpec) -> Result<Vec<PosixRlimit>, SpecError> {
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    spec.rlimits
        .iter()
        .map(|limit| {
            let name = serde_json::to_value(limit.name).ok().and_then(|v| v.as_str().map(str::to_uppercase));
            let kind = serde_json::from_value(format!("RLIMIT_{}", name.unwrap_or_default()).into());
            let kind: oci_spec::runtime::PosixRlimitType = built(kind)?;
            built(
                PosixRlimitBuilder::default()
                    .typ(kind)
                    .soft(value(limit.soft))
                    .hard(value(limit.hard))
                    .build(),
            )
        })
        .collect()
}

fn namespaces(
    spec: &ContainerSpec,
) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, oci_spec::OciSpecError> {
    use LinuxNamespaceType as Ns;
    [
        (Ns::Mount, true),
        (Ns::Uts, true),
        (Ns::Cgroup, true),
        (Ns::Pid, !spec.host_pid),
        (Ns::Ipc, !spec.host_ipc),
        (Ns::Network, !spec.host_network),
    ]
    .into_iter()
    .filter(|(_, own)| *own)
    .map(|(kind, _)| LinuxNamespaceBuilder::default().typ(kind).build())
    .collect()
}

fn mounts(input: &Input<'_>, privileged: bool) -> Result<Vec<Mount>, SpecError> {
    let spec = input.spec;
    let mut mounts = usual_mounts(SHM_SIZE);
    for usual in &mut mounts {
        if privileged && let Some(options) = usual.options() {
            let writable = options
                .iter()
                .map(|o| if o == "ro" { "rw".to_owned() } else { o.clone() })
                .collect::<Vec<_>>();
            usual.set_options(Some(writable));
        }
        if spec.host_ipc && usual.destination() == Path::new("/dev/shm") {
            *usual = mount_of("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]);
        }
    }
    let bind = |destination: &str, source: &Path, options: &[&str]| {
        let mut mount = mount_of(destination, "bind", "", options);
        mount.set_source(Some(source.to_owned()));
        mount
    };
    let taken = |path: &str| input.mounts.iter().any(|mount| mount.path == path);
    for (path, name) in
        [("/etc/resolv.conf", "resolv.conf"), ("/etc/hosts", "hosts"), ("/etc/hostname", "hostname")]
    {
        if !taken(path) {
            mounts.push(bind(path, &input.files.join(name), &["bind", "rprivate"]));
        }
    }
    Ok(mounts)
}
