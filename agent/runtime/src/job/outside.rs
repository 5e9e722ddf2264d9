//! The specification as another runtime gets it: pure.

use serde_json::{Value, json};

use super::{Outside, OutsideJob, StartRequest};
use crate::error::CompileError;

/// Lays it out. Volumes are binds of places below the directory, in the order of the job's mounts.
pub(super) fn compile(request: &StartRequest, outside: &Outside) -> Result<OutsideJob, CompileError> {
    let mut config = serde_json::to_value(&request.spec)
        .map_err(|error| CompileError::invalid("spec", format!("cannot be written as JSON: {error}")))?;
    config["root"]["path"] = json!(crate::outside::root(&outside.dir));
    let mut mounts = config["mounts"].as_array().cloned().unwrap_or_default();
    for volume in &request.volumes {
        let source = crate::outside::volume(&outside.dir, mounts.len());
        let options: Vec<&str> =
            ["rbind"].into_iter().chain(volume.options.iter().map(String::as_str)).collect();
        mounts.push(json!({
            "destination": volume.destination, "type": "bind", "source": source, "options": options,
        }));
    }
    config["mounts"] = Value::Array(mounts);
    let linux = &mut config["linux"];
    linux["cgroupsPath"] = json!(outside.cgroups_path);
    // Limits are set by whoever made the group.
    if !outside.device_rules.is_empty() {
        linux["resources"] = json!({"devices": outside.device_rules});
    }
    if let Some(caps) = outside.seccomp {
        linux["seccomp"] = crate::seccomp::profile(caps);
    }
    Ok(OutsideJob {
        name: outside.name.clone(),
        program: outside.program.clone(),
        create_args: outside.create_args.clone(),
        dir: outside.dir.clone(),
        config,
        limit: request.deadline,
    })
}
