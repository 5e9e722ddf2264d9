//! Containers that another OCI runtime makes.

use stower_controllers::FailureReason;
use stower_crds::Uid;
use stower_runtime::{job::Outside, outside};

use super::{
    Effects, chain, spec,
    start::{Failed, Wanted},
};
use crate::{
    config::{BUILT_IN, Config, RuntimeConfig},
    runtimes,
};

/// The runtime that a start goes by, whatever the configuration says later.
pub(super) struct Chosen {
    name: String,
    config: RuntimeConfig,
    program: std::path::PathBuf,
}

impl Effects {
    /// The runtime that a container asks for; `None` for the built-in one.
    pub(super) fn choose(&self, wanted: &Wanted, config: &Config) -> Result<Option<Chosen>, Failed> {
        let Some(name) = wanted.spec.runtime.as_deref().filter(|name| *name != BUILT_IN) else {
            return Ok(None);
        };
        let not_found = |message: String| Failed(FailureReason::RuntimeNotFound, message);
        let Some(runtime) = config.runtimes.get(name) else {
            let known = config.runtimes.keys().map(String::as_str);
            let known: Vec<&str> = [BUILT_IN].into_iter().chain(known).collect();
            return Err(not_found(format!(
                "spec.runtime: no runtime {name:?} is configured on this node (there are {}); add it to `runtimes` in the \
                 configuration",
                known.join(", ")
            )));
        };
        if let Some(field) = unsupported(&wanted.spec) {
            let message = format!(
                "{field}: not supported with the runtime {name:?} by this version; leave it out, or take the built-in runtime"
            );
            return Err(Failed(FailureReason::CreateContainerConfigError, message));
        }
        let program = runtimes::program(runtime)
            .map_err(|problem| not_found(format!("spec.runtime: runtime {name:?}: {problem}")))?;
        let script = runtimes::script(&self.paths.data, name, runtime, &program).map_err(|error| {
            let message = format!("cannot write the script of runtime {name:?}: {error}");
            Failed(FailureReason::CreateContainerError, message)
        })?;
        Ok(Some(Chosen { name: name.to_owned(), config: runtime.clone(), program: script }))
    }

    /// What that runtime is told.
    pub(super) fn outside(&self, wanted: &Wanted, chosen: Chosen, built: &spec::Built) -> Outside {
        let uid = wanted.uid.as_str();
        let privileged = wanted.spec.security_context.privileged == Some(true);
        let devices =
            built.spec.linux().as_ref().and_then(|linux| linux.devices().clone()).unwrap_or_default();
        let mut device_rules = Vec::new();
        if privileged {
            device_rules.push(serde_json::json!({"allow": true, "access": "rwm"}));
        } else if !devices.is_empty() {
            device_rules.push(serde_json::json!({"allow": false, "access": "rwm"}));
            let rules = devices.iter().zip(&wanted.spec.devices).map(|(device, asked)| {
                serde_json::json!({
                    "allow": true, "type": device.typ().as_str(), "major": device.major(), "minor": device.minor(),
                    "access": asked.permissions,
                })
            });
            device_rules.extend(rules);
        }
        Outside {
            name: chosen.name,
            program: chosen.program,
            create_args: chosen.config.create_args,
            dir: runtimes::directory(&self.run_dir(&wanted.uid)),
            cgroups_path: self.cgroups.path_of(uid),
            device_rules,
            seccomp: built.seccomp,
        }
    }

    /// Removes what the container of another runtime left: its state and its mounts. The built-in one leaves nothing.
    pub(super) fn clear_outside(&self, uid: &Uid) -> Result<(), String> {
        outside::clear(&runtimes::directory(&self.run_dir(uid)), uid.as_str()).map_err(|error| chain(&error))
    }
}

/// The first field of a spec that needs one more process in the container, or a terminal.
fn unsupported(spec: &stower_crds::ContainerSpec) -> Option<String> {
    let value = serde_json::to_value(spec).ok()?;
    if let Some(field) = ["tty", "stdin"].into_iter().find(|field| value[*field] == true) {
        return Some(format!("spec.{field}"));
    }
    let lifecycle = &value["lifecycle"];
    let handlers = [
        ("startupProbe", &value["startupProbe"]),
        ("livenessProbe", &value["livenessProbe"]),
        ("readinessProbe", &value["readinessProbe"]),
        ("lifecycle.postStart", &lifecycle["postStart"]),
        ("lifecycle.preStop", &lifecycle["preStop"]),
    ];
    let found = handlers.into_iter().find(|(_, handler)| handler["exec"].is_object());
    found.map(|(field, _)| format!("spec.{field}.exec"))
}
