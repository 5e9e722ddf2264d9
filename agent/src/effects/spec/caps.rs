//! Which capabilities a container has.

use stower_crds::Capabilities;
use stower_runtime::caps;

use super::SpecError;

fn mask<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, SpecError> {
    caps::from_names(names).map_err(SpecError::Capability)
}

/// The mask of the usual set, less `drop`, with `add`; `ALL` in either means every one. A name in both is added, as in
/// Kubernetes. Who asks for all of them gets those that the agent has (`own`), as with containerd: on a nested or hosted
/// machine some are often missing. One that is asked for by name is never left out.
pub(super) fn resolve(declared: Option<&Capabilities>, privileged: bool, own: u64) -> Result<u64, SpecError> {
    let all = mask(["ALL"])? & own;
    if privileged {
        return Ok(all);
    }
    let Some(declared) = declared else { return Ok(caps::DEFAULT) };
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let named = |names: &[String]| {
        let upper: Vec<String> =
            names.iter().filter(|name| !is_all(name)).map(|name| name.to_uppercase()).collect();
        mask(upper.iter().map(String::as_str))
    };
    let (add, drop) = (named(&declared.add)?, named(&declared.drop)?);
    let start =
        match (declared.add.iter().any(|name| is_all(&name)), declared.drop.iter().any(|name| is_all(&name)))
        {
            (true, _) => all,
            (false, true) => 0,
            (false, false) => caps::DEFAULT,
        };
    Ok((start & !drop) | add)
}
