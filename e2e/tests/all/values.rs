//! Values of ConfigMaps and Secrets, and of the object itself: as files and as variables.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use stower_e2e::node::restarts_of;
use stower_e2e::{TestNode, process};

use crate::support::{idle, inside, output_of, shell};

/// A ConfigMap manifest; `data` in YAML's flow style.
fn config_map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n")
}

/// A Secret manifest; `data` in YAML's flow style, not encoded.
fn secret(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {data}\n")
}

fn variables(pid: u32) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/environ"))?;
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn mode(path: &Path) -> Result<u32> {
    let meta = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(meta.permissions().mode() & 0o7777)
}

/// The names that a program sees in a folder, without those that begin with a dot.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .with_context(|| format!("list {}", folder.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

fn wait_content(node: &TestNode, path: &Path, wanted: &str) -> Result<()> {
    node.wait(&format!("{} to be {wanted:?}", path.display()), || {
        Ok((fs::read_to_string(path)? == wanted).then_some(()))
    })
}

/// One volume `conf` from the ConfigMap `settings`, at `/conf`.
const CONF: &str = "  volumes: [{name: conf, configMap: {name: settings}}]\n  volumeMounts: [{name: conf, mountPath: /conf}]\n";

#[test]
fn files_have_their_content_places_and_modes() -> Result<()> {
    let node = TestNode::start()?;
    let binary = "binaryData: {raw: AP8B}\n";
    node.write("c.yaml", &format!("{}{binary}", config_map("settings", "{a: one, b: two}")))?;
    node.write("s.yaml", &secret("key", "{password: hunter2}"))?;
    let body = "  volumes:
  - {name: all, configMap: {name: settings}}
  - {name: some, configMap: {name: settings, defaultMode: 0400, items: [{key: a, path: deep/er/a.conf}, {key: b, path: b, mode: 0755}]}}
  - {name: secret, secret: {secretName: key, defaultMode: 0440}}
  volumeMounts:
  - {name: all, mountPath: /all}
  - {name: some, mountPath: /some}
  - {name: secret, mountPath: /secret}
";
    node.write("a.yaml", &idle("a", body)?)?;
    let pid = node.wait_running("a")?;
    let at = |path: &str| inside(pid, path);
    ensure!(names(&at("/all"))? == ["a", "b", "raw"], "{:?}", names(&at("/all"))?);
    ensure!(fs::read(at("/all/raw"))? == [0, 0xff, 1]);
    ensure!(fs::read_to_string(at("/all/a"))? == "one" && mode(&at("/all/a"))? == 0o644);
    ensure!(names(&at("/some"))? == ["b", "deep"], "{:?}", names(&at("/some"))?);
    ensure!(fs::read_to_string(at("/some/deep/er/a.conf"))? == "one");
    ensure!(mode(&at("/some/deep/er/a.conf"))? == 0o400 && mode(&at("/some/b"))? == 0o755);
    ensure!(
        fs::read_to_string(at("/secret/password"))? == "hunter2" && mode(&at("/secret/password"))? == 0o440
    );
    Ok(())
}

#[test]
fn a_user_other_than_root_reads_them() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{a: one}"))?;
    let body = format!("{CONF}  securityContext: {{runAsUser: 1000}}\n");
    let said = output_of(&node, "a", "cat /conf/a", &body)?;
    ensure!(said == "one", "{said:?}");
    Ok(())
}

#[test]
fn files_cannot_be_changed_in_the_container() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{a: one}"))?;
    node.write("a.yaml", &idle("a", CONF)?)?;
    let pid = node.wait_running("a")?;
    for (what, done) in [
        ("a new file", fs::write(inside(pid, "/conf/new"), "x")),
        ("a key", fs::write(inside(pid, "/conf/a"), "x")),
        ("a removal", fs::remove_file(inside(pid, "/conf/a"))),
    ] {
        ensure!(
            done.as_ref().is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem),
            "{what}: {done:?}"
        );
    }
    Ok(())
}

#[test]
fn everything_that_is_missing_is_named_at_once() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{a: one}"))?;
    let body = "  env:
  - {name: X, valueFrom: {configMapKeyRef: {name: settings, key: gone}}}
  - {name: YY, valueFrom: {secretKeyRef: {name: none, key: password}}}
  envFrom: [{configMapRef: {name: from-none}}]
  volumes:
  - {name: v, configMap: {name: volume-none}}
  - {name: w, secret: {secretName: secret-none}}
  - {name: k, configMap: {name: settings, items: [{key: lost, path: lost}]}}
  volumeMounts:
  - {name: v, mountPath: /v}
  - {name: w, mountPath: /w}
  - {name: k, mountPath: /k}
";
    node.write("a.yaml", &idle("a", body)?)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    for part in [
        "ConfigMap default/settings has no key \"gone\"",
        "Secret default/none is not there",
        "ConfigMap default/from-none is not there",
        "ConfigMap default/volume-none is not there",
        "Secret default/secret-none is not there",
        "ConfigMap default/settings has no key \"lost\"",
    ] {
        ensure!(message.contains(part), "no {part:?} in: {message}");
    }
    ensure!(
        node.footprint().mounts.is_empty() && node.footprint().cgroups.iter().all(|c| !c.contains("/c/"))
    );

    // One by one they come; it starts with the last, by itself.
    node.write("c.yaml", &config_map("settings", "{a: one, gone: X-value, lost: found}"))?;
    node.write("none.yaml", &secret("none", "{password: Y-value}"))?;
    node.write("from.yaml", &config_map("from-none", "{Z: Z-value}"))?;
    node.write("volume.yaml", &config_map("volume-none", "{v: v-value}"))?;
    let left = "Secret default/secret-none is not there";
    node.wait("all but one to be found", || {
        Ok((node.wait_waiting("a", &["DependencyMissing"])? == left).then_some(()))
    })?;
    node.write("secret.yaml", &secret("secret-none", "{w: w-value}"))?;
    let pid = node.wait_running("a")?;
    let env = variables(pid)?;
    ensure!(env["X"] == "X-value" && env["YY"] == "Y-value" && env["Z"] == "Z-value", "{env:?}");
    for (path, content) in [("/v/v", "v-value"), ("/w/w", "w-value"), ("/k/lost", "found")] {
        ensure!(fs::read_to_string(inside(pid, path))? == content, "{path}");
    }
    Ok(())
}

#[test]
fn what_is_optional_may_be_missing_and_may_come_later() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{a: one}"))?;
    let body = "  env:
  - {name: KEPT, value: kept}
  - {name: X, valueFrom: {configMapKeyRef: {name: settings, key: gone, optional: true}}}
  - {name: YY, valueFrom: {secretKeyRef: {name: none, key: password, optional: true}}}
  envFrom: [{secretRef: {name: none, optional: true}}]
  volumes:
  - {name: v, configMap: {name: later, optional: true}}
  - {name: k, configMap: {name: settings, optional: true, items: [{key: a, path: a}, {key: gone, path: gone}]}}
  volumeMounts:
  - {name: v, mountPath: /v}
  - {name: k, mountPath: /k}
";
    node.write("a.yaml", &idle("a", body)?)?;
    let pid = node.wait_running("a")?;
    let env = variables(pid)?;
    ensure!(!env.contains_key("X") && !env.contains_key("YY") && env["KEPT"] == "kept", "{env:?}");
    ensure!(names(&inside(pid, "/v"))?.is_empty() && names(&inside(pid, "/k"))? == ["a"]);
    // It comes while the container runs.
    node.write("later.yaml", &config_map("later", "{n: new}"))?;
    wait_content(&node, &inside(pid, "/v/n"), "new")?;
    ensure!(node.wait_running("a")? == pid);
    Ok(())
}

#[test]
fn files_are_refreshed_while_the_container_runs() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{a: one, b: two}"))?;
    let sub = "  - {name: conf, mountPath: /sub/a, subPath: a}\n";
    let body = "  volumes: [{name: conf, configMap: {name: settings}}]\n  volumeMounts:\n  - {name: conf, mountPath: /conf}\n";
    node.write("a.yaml", &idle("a", &format!("{body}{sub}"))?)?;
    let pid = node.wait_running("a")?;
    ensure!(fs::read_to_string(inside(pid, "/sub/a"))? == "one");
    node.write("c.yaml", &config_map("settings", "{a: changed, c: three}"))?;
    wait_content(&node, &inside(pid, "/conf/a"), "changed")?;
    node.wait("a removed key to be gone, a new one to be there", || {
        Ok((names(&inside(pid, "/conf"))? == ["a", "c"]).then_some(()))
    })?;
    ensure!(fs::read_to_string(inside(pid, "/conf/c"))? == "three");
    // As in Kubernetes: what is mounted by subPath is what it was at the start.
    ensure!(fs::read_to_string(inside(pid, "/sub/a"))? == "one", "a subPath was refreshed");

    // After the agent has died, too, and for what changed meanwhile.
    node.kill_agent()?;
    node.write("c.yaml", &config_map("settings", "{a: meanwhile}"))?;
    node.start_agent()?;
    wait_content(&node, &inside(pid, "/conf/a"), "meanwhile")?;
    node.write("c.yaml", &config_map("settings", "{a: afterwards}"))?;
    wait_content(&node, &inside(pid, "/conf/a"), "afterwards")?;
    ensure!(node.wait_running("a")? == pid, "a changed value replaced the process");
    // The next start takes the subPath anew.
    process::kill9(pid)?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(fs::read_to_string(inside(pid, "/sub/a"))? == "afterwards");
    Ok(())
}

#[test]
fn a_running_container_keeps_the_files_of_a_removed_map() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{a: one}"))?;
    node.write("d.yaml", &config_map("other", "{a: other}"))?;
    let body =
        "  volumes: [{name: conf, configMap: {name: settings}}, {name: other, configMap: {name: other}}]
  volumeMounts: [{name: conf, mountPath: /conf}, {name: other, mountPath: /other}]
";
    node.write("a.yaml", &idle("a", body)?)?;
    let pid = node.wait_running("a")?;
    node.remove("c.yaml")?;
    node.wait("the removal to be seen", || {
        let path = "/api/v1/namespaces/default/configmaps/settings";
        Ok((stower_e2e::http::unix(&node.socket, "GET", path)?.status == 404).then_some(()))
    })?;
    // The others are refreshed none the less.
    node.write("d.yaml", &config_map("other", "{a: changed}"))?;
    wait_content(&node, &inside(pid, "/other/a"), "changed")?;
    ensure!(fs::read_to_string(inside(pid, "/conf/a"))? == "one" && node.wait_running("a")? == pid);
    // The next start waits for it, and does not go on without.
    process::kill9(pid)?;
    let message = node.wait_waiting("a", &["DependencyMissing"])?;
    ensure!(message.contains("ConfigMap default/settings is not there"), "{message}");
    node.write("c.yaml", &config_map("settings", "{a: again}"))?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(fs::read_to_string(inside(pid, "/conf/a"))? == "again");
    Ok(())
}

/// Reads two keys through one `..data` again and again. A folder that is swapped away meanwhile is looked at anew.
const READER: &str = "touch /report/reads; while :; do cd -P /conf/..data 2>/dev/null || continue; \
     a=$(cat a 2>/dev/null) && b=$(cat b 2>/dev/null) || continue; \
     [ \"$a\" = \"$b\" ] || echo \"$a beside $b\" >> /report/mixed; echo $a > /report/seen; done";

#[test]
fn a_reader_never_sees_some_old_and_some_new_values() -> Result<()> {
    let node = TestNode::start()?;
    let report = node.folder().join("report");
    fs::create_dir(&report)?;
    node.write("c.yaml", &config_map("settings", "{a: n0, b: n0}"))?;
    let body = format!(
        "  volumes: [{{name: conf, configMap: {{name: settings}}}}, {{name: r, hostPath: {{path: {}}}}}]\n  \
           volumeMounts: [{{name: conf, mountPath: /conf}}, {{name: r, mountPath: /report}}]\n",
        report.display()
    );
    node.write("a.yaml", &shell("a", READER, &body)?)?;
    node.wait_running("a")?;
    for n in 1..=20 {
        node.write("c.yaml", &config_map("settings", &format!("{{a: n{n}, b: n{n}}}")))?;
        node.wait(&format!("value n{n} to be read"), || {
            Ok((fs::read_to_string(report.join("seen"))?.trim() == format!("n{n}")).then_some(()))
        })?;
    }
    let mixed = fs::read_to_string(report.join("mixed")).unwrap_or_default();
    ensure!(mixed.is_empty(), "{mixed}");
    Ok(())
}

#[test]
fn variables_come_from_maps_secrets_and_the_object() -> Result<()> {
    let node = TestNode::builder().args(&["--node-name", "pier-7"]).start()?;
    node.write("c.yaml", &config_map("settings", "{A: from-map, B: $(A) and $$, OVER: map}"))?;
    node.write("s.yaml", &secret("key", "{A: from-secret, ONLY: secret}"))?;
    let object = idle(
        "a",
        "  env:
  - {name: OVER, value: env}
  - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
  - {name: LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app.example/part']\"}}}
  - {name: NO_LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['none']\"}}}
  - {name: NOTE, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}
  - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  - {name: MAP, valueFrom: {configMapKeyRef: {name: settings, key: B}}}
  - {name: SECRET, valueFrom: {secretKeyRef: {name: key, key: ONLY}}}
  - {name: BOTH, value: $(MAP)-$(p_A)-$(NAME)-$(none)}
  envFrom:
  - configMapRef: {name: settings}
  - secretRef: {name: key}
  - {prefix: p_, configMapRef: {name: settings}}
",
    )?;
    let meta =
        "metadata: {name: a, labels: {app.example/part: crane}, annotations: {note: '$(NAME) says $$'}}";
    node.write("a.yaml", &object.replace("metadata: {name: a}", meta))?;
    let env = variables(node.wait_running("a")?)?;
    let item = node.container("a")?.context("not there")?;
    let uid = item["metadata"]["uid"].as_str().context("no UID")?;
    for (name, wanted) in [
        ("NAME", "a"),
        ("NAMESPACE", "default"),
        ("UID", uid),
        ("LABEL", "crane"),
        ("NO_LABEL", ""),
        ("NODE", "pier-7"),
        // The later source wins, and `env` over all of them.
        ("A", "from-secret"),
        ("ONLY", "secret"),
        ("OVER", "env"),
        ("p_OVER", "map"),
        ("p_A", "from-map"),
        // What is referred to is taken as it is; only what the spec itself says is expanded.
        ("B", "$(A) and $$"),
        ("MAP", "$(A) and $$"),
        ("NOTE", "$(NAME) says $$"),
        ("SECRET", "secret"),
        ("BOTH", "$(A) and $$-from-map-a-$(none)"),
    ] {
        let found = env.get(name).map(String::as_str);
        ensure!(found == Some(wanted), "{name} is {found:?}, and {wanted:?} is right: {env:?}");
    }
    Ok(())
}

#[test]
fn a_value_that_is_no_text_is_refused_as_a_variable() -> Result<()> {
    let node = TestNode::start()?;
    node.write(
        "c.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: raw}\nbinaryData: {bytes: AP8B}\n",
    )?;
    node.write(
        "a.yaml",
        &idle("a", "  env: [{name: X, valueFrom: {configMapKeyRef: {name: raw, key: bytes}}}]\n")?,
    )?;
    node.write("b.yaml", &idle("b", "  envFrom: [{configMapRef: {name: raw}}]\n")?)?;
    for name in ["a", "b"] {
        let message = node.wait_waiting(name, &["CreateContainerConfigError"])?;
        ensure!(
            message.contains("key \"bytes\" of ConfigMap raw is not text") && message.contains("as a file"),
            "{message}"
        );
    }
    node.write("c.yaml", &config_map("raw", "{bytes: text}"))?;
    for name in ["a", "b"] {
        node.wait_running(name)?;
    }
    Ok(())
}

#[test]
fn a_changed_variable_is_for_the_next_start() -> Result<()> {
    let node = TestNode::start()?;
    node.write("c.yaml", &config_map("settings", "{COLOUR: red, again: '1'}"))?;
    let body = format!(
        "  env: [{{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: COLOUR}}}}}}]\n{CONF}"
    );
    node.write("a.yaml", &idle("a", &body)?)?;
    let pid = node.wait_running("a")?;
    node.write("c.yaml", &config_map("settings", "{COLOUR: blue, again: '2'}"))?;
    // The file tells that the agent has seen it.
    wait_content(&node, &inside(pid, "/conf/again"), "2")?;
    let plan = node.ok(["plan"])?;
    ensure!(!plan.contains("default/a"), "{plan}");
    ensure!(node.wait_running("a")? == pid && variables(pid)?["COLOUR"] == "red");
    process::kill9(pid)?;
    let pid = node.wait_restarted("a", pid)?;
    ensure!(variables(pid)?["COLOUR"] == "blue");
    ensure!(restarts_of(&node.container("a")?.context("not there")?) == 1);
    Ok(())
}

/// The files below `folder`, without links.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

#[test]
fn a_secret_is_told_to_nobody() -> Result<()> {
    // As text, and as base64 has it.
    const VALUES: [&str; 4] =
        ["sTow3r-hidden-1", "c1RvdzNyLWhpZGRlbi0x", "sTow3r-hidden-2", "c1RvdzNyLWhpZGRlbi0y"];
    let node = TestNode::builder().env("STOWER_LOG", "trace").start()?;
    node.write("s.yaml", &secret("key", "{A: sTow3r-hidden-1, bad.key: sTow3r-hidden-2}"))?;
    let body = "  env: [{name: A, valueFrom: {secretKeyRef: {name: key, key: A}}}]
  envFrom: [{secretRef: {name: key}}]
  volumes: [{name: v, secret: {secretName: key}}]
  volumeMounts: [{name: v, mountPath: /v}]
";
    // It fails again and again, so that failures are told, too.
    node.write("a.yaml", &idle("a", body)?)?;
    let failing = shell("b", "exit 3", body)?;
    node.write("b.yaml", &failing)?;
    let waiting = "  env: [{name: NONE, valueFrom: {secretKeyRef: {name: key, key: none}}}]\n";
    node.write("c.yaml", &idle("c", waiting)?)?;
    let pid = node.wait_running("a")?;
    ensure!(variables(pid)?["A"] == VALUES[0], "the test looks for what is not there");
    node.wait_waiting("c", &["DependencyMissing"])?;
    node.wait_container("b", "restarted", |item| restarts_of(item) > 0)?;
    node.write("s.yaml", &secret("key", "{A: sTow3r-hidden-2, bad.key: sTow3r-hidden-1}"))?;
    wait_content(&node, &inside(pid, "/v/A"), VALUES[2])?;
    process::signal(node.agent_pid()?, Signal::USR1)?;
    let is_dump = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("dump"));
    let all = |folders: &[&Path]| {
        let mut found = Vec::new();
        for folder in folders {
            files_below(folder, &mut found);
        }
        found
    };
    node.wait("the dump", || {
        let whole = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("default/a"));
        Ok(all(&[&node.run, &node.data]).iter().any(|path| is_dump(path) && whole(path)).then_some(()))
    })?;

    let mut told = Vec::new();
    let mut look = |what: &str, text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        told.extend(
            VALUES.iter().filter(|value| text.contains(**value)).map(|value| format!("{value} in {what}")),
        );
    };
    for args in [
        vec!["plan"],
        vec!["plan", "-o", "json"],
        vec!["events", "-A"],
        vec!["describe", "container", "a"],
        vec!["describe", "container", "b"],
        vec!["describe", "container", "c"],
        vec!["describe", "secret", "key"],
        vec!["get", "secrets", "-o", "wide"],
        vec!["get", "containers", "-A", "-o", "yaml"],
        vec!["get", "containers", "-A", "-o", "wide"],
        vec!["logs", "b"],
    ] {
        let output = node.cli(&args)?;
        look(&args.join(" "), format!("{}{}", output.stdout, output.stderr).as_bytes());
    }
    look("the metrics", &stower_e2e::http::unix(&node.socket, "GET", "/metrics")?.body);
    look("the agent's log", &fs::read(&node.log)?);
    // On disk they are in the ledger, which keeps what was accepted; in the run root in the volume itself, and in the variables that
    // one more process of the container gets.
    for path in all(&[&node.run, &node.data]) {
        let text = path.to_string_lossy();
        if path.ends_with("exec.json") && path.starts_with(&node.run) {
            ensure!(fs::metadata(&path)?.permissions().mode() & 0o077 == 0, "{text} is open to others");
            continue;
        }
        if !text.contains("/ledger/") && !text.contains("/volumes/v/") {
            look(&text, &fs::read(&path).unwrap_or_default());
        }
    }
    ensure!(told.is_empty(), "{told:#?}");
    for path in all(&[&node.data.join("ledger")]) {
        ensure!(mode(&path)? & 0o077 == 0, "{} is open to others", path.display());
    }
    // What is gone leaves no value behind.
    for name in ["a", "b", "c"] {
        node.remove(&format!("{name}.yaml"))?;
    }
    for name in ["a", "b", "c"] {
        node.wait_gone(name)?;
    }
    let left = all(&[&node.run]);
    let holds = |path: &&PathBuf| {
        VALUES
            .iter()
            .any(|value| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).contains(value))
    };
    ensure!(left.iter().find(holds).is_none(), "{left:?}");
    Ok(())
}
