//! Which capabilities a container has.

use stower_crds::Capabilities;
use stower_runtime::caps;

use super::SpecError;

fn mask<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, SpecError> {
    caps::from_names(names).map_err(SpecError::Capability)
}

/// The mask of the usual set, less `drop`, with `add`; `ALL` in either means every one. A name in both is added, as in
/// Kubernetes.
pub(super) fn resolve(declared: Option<&Capabilities>, privileged: bool) -> Result<u64, SpecError> {
    if privileged {
        return mask(["ALL"]);
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
            (true, _) => mask(["ALL"])?,
            (false, true) => 0,
            (false, false) => caps::DEFAULT,
        };
    Ok((start & !drop) | add)
}
