//! The manifests directory: what counts as a change, and what never stops a container.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stower_e2e::node::{condition, pid_of, uid_of};
use stower_e2e::{TestNode, process, wait_long_for};

use crate::support::{idle, shell};

fn wait_all_running(node: &TestNode, names: &[&str]) -> Result<Vec<u32>> {
    names.iter().map(|name| node.wait_running(name)).collect()
}

#[test]
fn several_documents_json_and_yml_are_read() -> Result<()> {
    let node = TestNode::start()?;
    node.write("two.yaml", &format!("---\n{}---\n# nothing here\n---\n{}", idle("a", "")?, idle("b", "")?))?;
    node.write("three.yml", &idle("c", "")?)?;
    let image = stower_e2e::Catalog::get()?.reference(stower_e2e::catalog::payload)?;
    let json = serde_json::json!({"apiVersion": "stower.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": "d"}, "spec": {"image": image}});
    node.write("four.json", &json.to_string())?;
    let pids = wait_all_running(&node, &["a", "b", "c", "d"])?;
    // One document of the file goes, the other stays as it is.
    node.write("two.yaml", &idle("b", "")?)?;
    node.wait_gone("a")?;
    ensure!(node.wait_running("b")? == pids[1], "the document that stayed was disturbed");
    Ok(())
}

#[test]
fn other_files_and_dotfiles_are_ignored() -> Result<()> {
    let node = TestNode::start()?;
    for name in [".hidden.yaml", "backup.yaml~", "notes.txt", "#auto.yaml#", ".swp.yaml.swp"] {
        node.write(name, &idle("ghost", "")?)?;
    }
    node.write("real.yaml", &idle("real", "")?)?;
    node.wait_running("real")?;
    ensure!(node.container("ghost")?.is_none(), "an ignored file declared something");
    Ok(())
}

#[test]
fn a_half_written_save_is_not_taken() -> Result<()> {
    let node = TestNode::start()?;
    let text = idle("slow", "  env: [{name: A, value: '1'}]\n")?;
    node.write("slow.yaml", &text)?;
    let pid = node.wait_running("slow")?;
    // As editors do without a rename: truncate, write a part, write the rest, close.
    let cut = text.find("spec:").context("no spec")? + 8;
    let mut file = fs::File::create(node.manifests.join("slow.yaml"))?;
    file.write_all(&text.as_bytes()[..cut])?;
    file.flush()?;
    // Another file is taken meanwhile, so the agent had its chance to see the half.
    node.write("other.yaml", &idle("other", "")?)?;
    node.wait_running("other")?;
    ensure!(node.wait_running("slow")? == pid, "half a file disturbed its container");
    file.write_all(&text.as_bytes()[cut..])?;
    drop(file);
    node.write("third.yaml", &idle("third", "")?)?;
    node.wait_running("third")?;
    ensure!(node.wait_running("slow")? == pid, "a save without a change replaced the container");
    Ok(())
}

#[test]
fn a_mounted_configmap_changes_at_once() -> Result<()> {
    let node = TestNode::start()?;
    // As the kubelet lays it out: ..data leads to a dated folder, and files lead through it.
    let lay = |version: &str, value: &str| -> Result<()> {
        let folder = node.manifests.join(format!("..{version}"));
        fs::create_dir(&folder)?;
        fs::write(
            folder.join("app.yaml"),
            idle("app", &format!("  env: [{{name: V, value: '{value}'}}]\n"))?,
        )?;
        symlink(format!("..{version}"), node.manifests.join("..data_tmp"))?;
        fs::rename(node.manifests.join("..data_tmp"), node.manifests.join("..data"))?;
        Ok(())
    };
    lay("2026_01", "one")?;
    symlink("..data/app.yaml", node.manifests.join("app.yaml"))?;
    let first = node.wait_running("app")?;
    lay("2026_02", "two")?;
    node.wait_restarted("app", first)?;
    ensure!(node.containers()?.len() == 1, "the dated folders were read as well");
    Ok(())
}

#[test]
fn the_first_file_owns_a_name_and_the_second_takes_over() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &shell("same", "echo first; exec sleep 1000000", "")?)?;
    let pid = node.wait_running("same")?;
    node.write("b.yaml", &shell("same", "echo second; exec sleep 1000000", "")?)?;
    node.wait("the conflict to be shown", || {
        let all = node.containers()?;
        Ok(all
            .iter()
            .any(|item| condition(item, "Accepted") == Some(("False", "NameConflict")))
            .then_some(()))
    })?;
    ensure!(process::alive(pid), "the second file disturbed the first");
    let running = node.containers()?.iter().filter(|item| pid_of(item).is_some()).count();
    ensure!(running == 1, "{running} containers run under one name");
    // The first keeps the name over a restart of the agent, whatever is read first.
    node.restart_agent()?;
    ensure!(node.wait_running("same")? == pid);
    node.remove("a.yaml")?;
    node.wait("the second to take over", || Ok(node.ok(["logs", "same"])?.contains("second").then_some(())))?;
    Ok(())
}

#[test]
fn an_object_that_moves_to_another_file_stays_itself() -> Result<()> {
    let node = TestNode::start()?;
    let text = idle("mover", "")?;
    node.write("old.yaml", &text)?;
    let pid = node.wait_running("mover")?;
    let uid = uid_of(&node.container("mover")?.context("not there")?)?;
    fs::rename(node.manifests.join("old.yaml"), node.manifests.join("new.yaml"))?;
    node.write("mark.yaml", &idle("mark", "")?)?;
    node.wait_running("mark")?;
    let item = node.wait_container("mover", "running", |item| pid_of(item).is_some())?;
    ensure!(uid_of(&item)? == uid && pid_of(&item) == Some(pid), "a renamed file replaced its container");
    Ok(())
}

#[test]
fn a_name_that_comes_back_is_a_new_object() -> Result<()> {
    let node = TestNode::start()?;
    node.write("a.yaml", &shell("a", "echo one; exec sleep 1000000", "")?)?;
    node.wait_running("a")?;
    let before = uid_of(&node.container("a")?.context("not there")?)?;
    node.remove("a.yaml")?;
    node.wait_gone("a")?;
    node.write("a.yaml", &shell("a", "echo two; exec sleep 1000000", "")?)?;
    node.wait_running("a")?;
    ensure!(uid_of(&node.container("a")?.context("not there")?)? != before, "the uid is the former one's");
    node.wait("its own log", || Ok(node.ok(["logs", "a"])?.contains("two").then_some(())))?;
    ensure!(!node.ok(["logs", "a"])?.contains("one"), "it has the former one's log");
    Ok(())
}

#[test]
fn a_directory_that_is_gone_stops_nothing() -> Result<()> {
    let node = TestNode::start()?;
    for name in ["a", "b"] {
        node.write(&format!("{name}.yaml"), &idle(name, "")?)?;
    }
    let pids = wait_all_running(&node, &["a", "b"])?;
    let away = node.folder().join("away");
    fs::rename(&node.manifests, &away)?;
    node.wait("the directory to be reported", || {
        Ok((node.metric("stower_source_readable")? < 0.5).then_some(()))
    })?;
    ensure!(pids.iter().all(|pid| process::alive(*pid)), "containers ended with their directory");
    // A new agent knows them from the ledger.
    node.restart_agent()?;
    ensure!(wait_all_running(&node, &["a", "b"])? == pids);
    process::kill9(pids[0])?;
    node.wait_restarted("a", pids[0])?;
    fs::rename(&away, &node.manifests)?;
    node.remove("b.yaml")?;
    node.wait_gone("b")?;
    node.wait_running("a")?;
    Ok(())
}

#[test]
fn a_directory_that_lost_every_file_at_once_stops_nothing() -> Result<()> {
    let node = TestNode::start()?;
    for name in ["a", "b", "c"] {
        node.write(&format!("{name}.yaml"), &idle(name, "")?)?;
    }
    let pids = wait_all_running(&node, &["a", "b", "c"])?;
    node.kill_agent()?;
    for name in ["a", "b", "c"] {
        node.remove(&format!("{name}.yaml"))?;
    }
    node.start_agent()?;
    node.wait("the empty directory to be doubted", || {
        Ok((node.metric("stower_source_readable")? < 0.5).then_some(()))
    })?;
    ensure!(wait_all_running(&node, &["a", "b", "c"])? == pids, "an empty directory was believed");
    Ok(())
}

#[test]
fn allow_empty_believes_an_empty_directory() -> Result<()> {
    let node = TestNode::builder().args(&["--allow-empty"]).start()?;
    for name in ["a", "b"] {
        node.write(&format!("{name}.yaml"), &idle(name, "")?)?;
    }
    wait_all_running(&node, &["a", "b"])?;
    node.kill_agent()?;
    for name in ["a", "b"] {
        node.remove(&format!("{name}.yaml"))?;
    }
    node.start_agent()?;
    for name in ["a", "b"] {
        node.wait_gone(name)?;
    }
    node.wait("nothing left", || Ok(node.footprint().processes.is_empty().then_some(())))
}

#[test]
fn other_mounts_at_the_directory_stop_nothing() -> Result<()> {
    let node = TestNode::start()?;
    for name in ["a", "b"] {
        node.write(&format!("{name}.yaml"), &idle(name, "")?)?;
    }
    let pids = wait_all_running(&node, &["a", "b"])?;
    node.kill_agent()?;
    // As after a boot on which the real filesystem was not mounted: another one, with some file in it.
    process::run("mount", ["-t", "tmpfs", "other", node.manifests.to_str().context("an odd path")?])?;
    node.write("stray.yaml", &idle("stray", "")?)?;
    node.start_agent()?;
    node.wait("the other filesystem to be doubted", || {
        Ok((node.metric("stower_source_readable")? < 0.5).then_some(()))
    })?;
    ensure!(wait_all_running(&node, &["a", "b"])? == pids, "another filesystem was believed");
    process::run("umount", [&node.manifests])?;
    node.write("c.yaml", &idle("c", "")?)?;
    node.wait_running("c")?;
    ensure!(wait_all_running(&node, &["a", "b"])? == pids);
    Ok(())
}

#[test]
fn another_nodes_objects_are_left_alone() -> Result<()> {
    let node = TestNode::builder().args(&["--node-name", "here"]).start()?;
    node.write("theirs.yaml", &idle("theirs", "  nodeName: there\n")?)?;
    node.write("ours.yaml", &idle("ours", "  nodeName: here\n")?)?;
    let pid = node.wait_running("ours")?;
    node.write("later.yaml", &idle("later", "")?)?;
    node.wait_running("later")?;
    ensure!(process::alive(pid));
    let theirs = node.container("theirs")?;
    ensure!(theirs.as_ref().and_then(pid_of).is_none(), "another node's container runs here: {theirs:?}");
    Ok(())
}

#[test]
fn twenty_thousand_files_work() -> Result<()> {
    let node = TestNode::start()?;
    // They are another node's, so that nothing is started: it is the reading that is tested.
    for n in 0..20_000 {
        let text = idle(&format!("n{n}"), "  nodeName: another-node\n")?;
        fs::write(node.manifests.join(format!("n{n}.yaml")), text)?;
    }
    node.write("last.yaml", &idle("last", "")?)?;
    // Asked for alone: a list of all would be most of the work.
    let one = || -> Result<Option<u32>> {
        Ok(pid_of(&serde_json::from_str(&node.ok(["get", "container", "last", "-o", "json"])?)?))
    };
    let pid = wait_long_for("the last of 20,001 files to run", Duration::from_secs(300), one)?;
    ensure!(node.footprint().processes.len() == 2, "another node's containers run here");
    // It may have been among the first that were read.
    wait_long_for("all files to be read", Duration::from_secs(300), || {
        Ok((node.metric("stower_source_files")? >= 20_001.0).then_some(()))
    })?;
    node.restart_agent()?;
    ensure!(wait_long_for("the last one after a restart", Duration::from_secs(120), one)? == pid);
    node.remove("last.yaml")?;
    wait_long_for("the last one to be gone", Duration::from_secs(120), || Ok(one().is_err().then_some(())))
}
