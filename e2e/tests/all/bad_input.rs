//! Bad input: each gets an exit code or a condition, and a message that a person can act on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::{binary, restarts_of};
use stower_e2e::proxy::CuttingProxy;
use stower_e2e::{Catalog, Image, Registry, TestNode, catalog, process, registry};

use crate::support::{container, idle};

/// `validate -f` of a file refuses it with all of these words.
fn refused_with(node: &TestNode, text: &str, words: &[&str]) -> Result<()> {
    let file = node.folder().join("bad.yaml");
    fs::write(&file, text)?;
    let output = node.cli(["validate", "-f", file.to_str().context("an odd path")?])?;
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.code > 0, "accepted:\n{text}\n{said}");
    for word in words.iter().chain(&["bad.yaml"]) {
        ensure!(said.contains(word), "the message does not have {word:?}:\n{said}\nfor:\n{text}");
    }
    Ok(())
}

#[test]
fn malformed_manifests_are_refused_by_name_and_place() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    let cases: [(String, &[&str]); 8] = [
        (container("a", "busybox", "  imagee: x\n"), &["imagee", ":6"]),
        (container("a", "busybox", "  args: 5\n"), &["args"]),
        (
            container("a", "busybox", "  terminationGracePeriodSeconds: soon\n"),
            &["terminationGracePeriodSeconds"],
        ),
        (container("a", "busybox", "  restartPolicy: Sometimes\n"), &["restartPolicy", "Sometimes"]),
        (container("Not_A_Name", "busybox", ""), &["metadata.name", "RFC 1123"]),
        (
            "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {name: a}\nspec: {}\n".into(),
            &["image"],
        ),
        ("apiVersion: stower.dev/v1alpha1\nkind: Barrel\nmetadata: {name: a}\n".into(), &["Barrel"]),
        (container("a", "busybox", "  args: [unclosed\n"), &[":6:9"]),
    ];
    for (text, words) in cases {
        refused_with(&node, &text, words)?;
    }
    Ok(())
}

#[test]
fn fields_that_are_not_built_yet_are_refused_by_name() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    let fields = [
        ("spec.hostUsers", "  hostUsers: false\n"),
        ("spec.imagePullSecrets", "  imagePullSecrets: [{name: registry}]\n"),
    ];
    for (field, body) in fields {
        refused_with(&node, &container("a", "busybox", body), &[field, "not supported by this version"])?;
    }
    Ok(())
}

#[test]
fn a_bad_file_is_reported_and_its_last_good_object_goes_on() -> Result<()> {
    let node = TestNode::start()?;
    let good = idle("steady", "")?;
    node.write("steady.yaml", &good)?;
    let pid = node.wait_running("steady")?;
    node.write("steady.yaml", &format!("{good}  imagee: x\n"))?;
    let wait_told = |node: &TestNode| {
        node.wait("the bad file to be reported", || {
            let events = node.ok(["events", "-A"])?;
            Ok((events.contains("steady.yaml") && events.contains("imagee")).then_some(()))
        })
    };
    wait_told(&node)?;
    ensure!(node.wait_running("steady")? == pid, "a bad file disturbed what ran");
    // The ledger has the last good object, so another agent keeps it too.
    node.restart_agent()?;
    wait_told(&node)?;
    ensure!(node.wait_running("steady")? == pid, "the next agent dropped the last good object");
    Ok(())
}

#[test]
fn hostile_files_cost_neither_time_nor_memory() -> Result<()> {
    let node = TestNode::start()?;
    node.write("good.yaml", &idle("good", "")?)?;
    node.wait_running("good")?;
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(",")));
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let resident = |pid: u32| -> Result<u64> {
        let text = process::status_field(pid, "VmHWM")?;
        text.trim_end_matches(" kB").trim().parse().context("VmHWM is no number")
    };
    let pid = node.agent_pid()?;
    let before = resident(pid)?;
    node.write("bomb.yaml", &bomb)?;
    node.write("deep.yaml", &deep)?;
    // Sparse: 100 MiB without filling the disk.
    let big = node.manifests.join(".big.tmp");
    fs::File::create(&big)?.set_len(100 << 20)?;
    fs::rename(big, node.manifests.join("big.yaml"))?;
    node.wait("all three to be reported", || {
        let events = node.ok(["events", "-A"])?;
        Ok(["bomb.yaml", "deep.yaml", "big.yaml"].iter().all(|name| events.contains(name)).then_some(()))
    })?;
    let grown = resident(pid)?.saturating_sub(before);
    ensure!(grown < 10 * 1024, "the agent's peak memory grew by {grown} kB");
    Ok(())
}

#[test]
fn an_image_that_is_not_there_is_said_so() -> Result<()> {
    let node = TestNode::start()?;
    let image = format!("{}/nothing/here:1", Catalog::get()?.registry.address);
    node.write("a.yaml", &container("a", &image, ""))?;
    let message = node.wait_waiting("a", &["ErrImagePull", "ImagePullBackOff"])?;
    ensure!(message.contains("nothing/here") && message.to_lowercase().contains("not"), "{message}");
    let said = node.refused(["pull", &image])?;
    ensure!(said.contains("nothing/here"), "{said}");
    Ok(())
}

#[test]
fn a_policy_of_never_wants_the_image_here() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    node.write("a.yaml", &container("a", &image, "  imagePullPolicy: Never\n"))?;
    let message = node.wait_waiting("a", &["ErrImageNeverPull"])?;
    ensure!(message.contains("payload"), "{message}");
    // It starts by itself once the image is there.
    node.ok(["pull", &image])?;
    node.wait_running("a")?;
    Ok(())
}

#[test]
fn a_registry_that_is_down_is_said_so_and_tried_again() -> Result<()> {
    let catalog = Catalog::get()?;
    let storage = tempfile::tempdir()?;
    let registry = Registry::start(&catalog.tools, &storage.path().join("data"))?;
    let image = registry.push(&catalog::payload()?, "1")?;
    registry.stop();
    let node = TestNode::builder().args(&["--insecure-registry", &registry.address]).start()?;
    node.write("a.yaml", &container("a", &image, ""))?;
    let message = node.wait_waiting("a", &["RegistryUnavailable", "ErrImagePull", "ImagePullBackOff"])?;
    ensure!(message.contains(&registry.address), "the message names no registry: {message}");
    registry.resume()?;
    let pid = node.wait_running("a")?;
    // A crash restarts with the registry down.
    registry.stop();
    process::kill9(pid)?;
    node.wait_restarted("a", pid)?;
    Ok(())
}

#[test]
fn a_registry_that_speaks_only_http_is_refused_unless_named() -> Result<()> {
    let node = TestNode::builder().no_registry().start()?;
    let image = Catalog::get()?.reference(catalog::payload)?;
    let said = node.refused(["pull", &image])?;
    ensure!(said.contains("insecure-registry"), "the message does not tell what to do: {said}");
    Ok(())
}

/// A registry of one test's own with the payload image in it, and its biggest blob's file.
fn registry_to_damage(folder: &std::path::Path) -> Result<(Registry, String, std::path::PathBuf)> {
    let registry = Registry::start(&Catalog::get()?.tools, &folder.join("data"))?;
    let image = catalog::payload()?;
    let reference = registry.push(&image, "1")?;
    let layer = layer_of(&image)?;
    let file = registry.blob_file(layer["digest"].as_str().context("no digest")?)?;
    Ok((registry, reference, file))
}

fn layer_of(image: &Image) -> Result<Value> {
    image.parts()?.get(1).cloned().context("an image without layers")
}

#[test]
fn a_blob_of_another_digest_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (registry, image, file) = registry_to_damage(folder.path())?;
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes)?;
    let node = TestNode::builder().args(&["--insecure-registry", &registry.address]).start()?;
    node.write("a.yaml", &container("a", &image, ""))?;
    let message = node.wait_waiting("a", &["ErrImagePull", "ImagePullBackOff"])?;
    ensure!(message.contains("digest") && message.contains("sha256:"), "{message}");
    ensure!(node.ok(["images", "-q"])?.trim().is_empty(), "an image with a wrong blob is listed");
    Ok(())
}

#[test]
fn a_truncated_blob_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (registry, image, file) = registry_to_damage(folder.path())?;
    fs::File::options().write(true).open(&file)?.set_len(1000)?;
    let node = TestNode::builder().args(&["--insecure-registry", &registry.address]).start()?;
    let said = node.refused(["pull", &image])?;
    let words = ["short", "size", "truncat", "bytes", "ended"];
    ensure!(
        words.iter().any(|word| said.contains(word)),
        "the message does not tell that it is short: {said}"
    );
    ensure!(node.ok(["images", "-q"])?.trim().is_empty());
    Ok(())
}

#[test]
fn what_an_image_may_take_is_configured() -> Result<()> {
    let layout = catalog::busybox()?.layout;
    let layout = layout.to_str().context("odd path")?;
    let name = "example.org/bounded:1";
    let node = |unpack: &str| {
        let config = format!(
            "images: {{gc: {{enabled: false}}, unpack: {{{unpack}}}}}\nstorage: {{minFree: {{}}, minFreeInodes: {{}}}}\n"
        );
        TestNode::builder().no_registry().config(&config).start()
    };
    for (unpack, word) in
        [("maxEntries: 3", "limit of 3 entries"), ("maxSize: 1Mi", "limit of 1048576 bytes")]
    {
        let node = node(unpack)?;
        let said = node.refused(["image", "import", layout, name])?;
        ensure!(said.contains(word) && said.contains("configured"), "{said}");
        ensure!(node.ok(["images", "-q"])?.trim().is_empty(), "an image that was refused is listed");
    }
    node("maxEntries: 100000, maxSize: 1Gi, maxRatio: 100")?.ok(["image", "import", layout, name])?;
    Ok(())
}

#[test]
fn a_cut_download_is_taken_up_again() -> Result<()> {
    let catalog = Catalog::get()?;
    let reference = catalog.reference(catalog::payload)?;
    let proxy = CuttingProxy::start(&catalog.registry.address, 100_000, 2)?;
    let node = TestNode::builder().args(&["--insecure-registry", &proxy.address]).start()?;
    let image = reference.replace(&catalog.registry.address, &proxy.address);
    node.write("a.yaml", &container("a", &image, ""))?;
    node.wait_running("a")?;
    ensure!(proxy.cuts_left() == 0, "the download was never cut");
    Ok(())
}

#[test]
fn an_image_for_another_machine_is_refused() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::busybox_foreign)?;
    node.write("a.yaml", &container("a", &image, ""))?;
    let message = node.wait_waiting("a", &["ErrImagePull", "ImagePullBackOff", "ImageInspectError"])?;
    ensure!(message.contains("s390x") && message.contains(stower_e2e::image::ARCHITECTURE), "{message}");
    Ok(())
}

#[test]
fn a_command_that_is_not_there_is_said_so() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::busybox)?;
    node.write("a.yaml", &container("a", &image, "  command: [/no/such/program]\n  restartPolicy: Never\n"))?;
    let item = node.wait_container("a", "unable to start", |item| {
        item["status"]["phase"] == "Failed"
            || item["status"]["state"]["waiting"]["reason"] == "RunContainerError"
    })?;
    let status = item["status"].to_string();
    ensure!(status.contains("/no/such/program"), "the message names no program: {status}");
    ensure!(status.contains("no such file") || status.contains("not found"), "{status}");
    Ok(())
}

#[test]
fn a_command_that_is_not_there_under_always_backs_off_and_leaves_nothing() -> Result<()> {
    let node = TestNode::start()?;
    let image = Catalog::get()?.reference(catalog::busybox)?;
    node.write("a.yaml", &container("a", &image, "  command: [/no/such/program]\n"))?;
    node.wait_container("a", "tried twice", |item| {
        restarts_of(item) >= 2 || item["status"]["nextRestartTime"].is_string()
    })?;
    let left = node.footprint();
    ensure!(left.processes.is_empty(), "a start that failed left processes: {:?}", left.processes);
    ensure!(left.mounts.is_empty(), "a start that failed left mounts: {:?}", left.mounts);
    Ok(())
}

#[test]
fn a_user_that_is_not_there_is_said_so() -> Result<()> {
    let catalog = Catalog::get()?;
    let (builder, key) = catalog::payload_builder("payload-nobody")?;
    let config = serde_json::json!({"Entrypoint": ["/payload"], "Cmd": ["stay"], "User": "captain"});
    let image = builder.config(config).build(&format!("{key}-captain"))?;
    let reference = catalog.registry.push(&image, "latest")?;
    let node = TestNode::start()?;
    node.write("a.yaml", &container("a", &reference, ""))?;
    let message = node.wait_waiting(
        "a",
        &["CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"],
    )?;
    ensure!(message.contains("captain"), "{message}");
    Ok(())
}

#[test]
fn an_unwritable_data_directory_is_refused() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    // Root writes where it likes, except below a file.
    fs::write(node.folder().join("data"), "a file")?;
    let output = process::output(&mut node.agent_command())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "started on a file as its data root");
    ensure!(
        said.contains(node.data.to_str().context("an odd path")?) && said.contains("--data-root"),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_agent_without_root_is_refused() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    // Everyone may enter, so that nothing but the missing privilege is met.
    fs::set_permissions(node.folder(), fs::Permissions::from_mode(0o777))?;
    let copy = node.folder().join("stower");
    // By another process: see `kinds::only_root_sees_the_values_of_a_secret`.
    process::run("cp", [&binary()?, &copy])?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy);
    command.args(node.agent_command().get_args());
    process::without_settings(&mut command);
    let output = process::output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "started without root");
    ensure!(said.contains("root"), "{said}");
    Ok(())
}

#[test]
fn commands_without_an_agent_tell_what_to_start() -> Result<()> {
    let node = TestNode::builder().no_registry().build()?;
    let said = node.refused(["get", "containers"])?;
    ensure!(said.contains("stower.sock") && said.contains("stower agent"), "{said}");
    Ok(())
}

#[test]
fn a_port_that_nobody_listens_on_is_told_as_such() -> Result<()> {
    let address = format!("127.0.0.1:{}", registry::free_port()?);
    let node = TestNode::builder().args(&["--insecure-registry", &address]).start()?;
    let said = node.refused(["pull", &format!("{address}/a:1")])?;
    ensure!(said.contains(&address) && said.contains("refused"), "{said}");
    Ok(())
}
