//! Startup, liveness and readiness: asked of real servers in containers' own networks.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::node::{condition, restarts_of};
use stower_e2e::{Catalog, TestNode, catalog, registry};

use crate::support::{container, inside};

/// A server on port 8080 of its own loopback that answers with `word`; `body` is more of the spec.
fn probed(name: &str, word: &str, body: &str) -> Result<String> {
    let image = Catalog::get()?.reference(catalog::payload)?;
    let args =
        format!("  args: [probed, \"127.0.0.1:8080\", \"{word}\"]\n  terminationGracePeriodSeconds: 1\n");
    Ok(container(name, &image, &format!("{args}{body}")))
}

/// Changes what it answers.
fn say(pid: u32, word: &str) -> Result<()> {
    let path = inside(pid, "/tmp/word");
    fs::write(&path, word).with_context(|| format!("write {}", path.display()))
}

fn is_ready(item: &Value) -> bool {
    let is = condition(item, "Ready").is_some_and(|ready| ready.0 == "True");
    // Both say the same.
    is && item["status"]["ready"] == true
}

fn message_of(item: &Value) -> &str {
    let conditions = item["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
    ready.and_then(|ready| ready["message"].as_str()).unwrap_or_default()
}

/// How many lines of its log hold a text.
fn asked(node: &TestNode, name: &str, text: &str) -> Result<usize> {
    Ok(node.ok(["logs", name])?.lines().filter(|line| line.contains(text)).count())
}

const HTTP: &str = "httpGet: {path: /healthz, port: 8080}";

#[test]
fn each_handler_sees_the_program_come_and_go() -> Result<()> {
    let node = TestNode::start()?;
    let handlers = [
        ("http", HTTP, "HTTP probe failed with statuscode: 503"),
        ("h2c", "httpGet: {port: web, protocol: HTTP2}", "HTTP probe failed with statuscode: 503"),
        ("grpc", "grpc: {port: 8080, service: shop}", "service unhealthy (responded with \"NOT_SERVING\")"),
        ("exec", "exec: {command: [/payload, is, \"200\"]}", "asked for \"200\", and the word is \"503\""),
    ];
    for (name, handler, _) in handlers {
        let body = format!(
            "  ports: [{{name: web, containerPort: 8080}}]\n  readinessProbe: {{{handler}, periodSeconds: 1, failureThreshold: 1}}\n"
        );
        node.write(&format!("{name}.yaml"), &probed(name, "503", &body)?)?;
    }
    for (name, _, failure) in handlers {
        // Its first probes may come before it listens.
        let item = node
            .wait_container(name, "not ready, with the reason", |item| message_of(item).contains(failure))?;
        ensure!(!is_ready(&item) && item["status"]["started"] == true, "{name}: {}", item["status"]);
        let pid = node.wait_running(name)?;
        say(pid, "200")?;
        node.wait_container(name, "ready", is_ready)?;
        say(pid, "503")?;
        let item = node.wait_container(name, "not ready any more", |item| !is_ready(item))?;
        ensure!(restarts_of(&item) == 0, "{name} was restarted: {}", item["status"]);
        ensure!(condition(&item, "Ready") == Some(("False", "NotReady")), "{name}: {}", item["status"]);
    }
    let log = node.ok(["logs", "http"])?;
    let request = log.lines().find(|line| line.starts_with("GET ")).context("no request was logged")?;
    ensure!(
        request.contains("GET /healthz HTTP/1.1") && request.contains("user-agent: stower-probe/"),
        "{request}"
    );
    Ok(())
}

#[test]
fn an_open_port_is_enough_for_tcp_and_the_hosts_is_not_the_containers() -> Result<()> {
    let node = TestNode::start()?;
    // Somebody listens on the host, at a port where nobody does in the container.
    let host = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = host.local_addr()?.port();
    let probe = |port: u16| {
        format!("  readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1, failureThreshold: 1}}\n")
    };
    node.write("open.yaml", &probed("open", "200", &probe(8080))?)?;
    node.write("closed.yaml", &probed("closed", "200", &probe(port))?)?;
    node.wait_container("open", "ready", is_ready)?;
    let item = node.wait_container("closed", "refused", |item| message_of(item).contains("refused"))?;
    ensure!(
        message_of(&item).contains(&format!("dial tcp 127.0.0.1:{port}: connect")),
        "{}",
        message_of(&item)
    );
    // In the host's network it is the host's.
    let body = format!("  hostNetwork: true\n{}", probe(port));
    let free = registry::free_port()?;
    let text = probed("host", "200", &body)?.replace("127.0.0.1:8080", &format!("127.0.0.1:{free}"));
    node.write("host.yaml", &text)?;
    node.wait_container("host", "ready", is_ready)?;
    Ok(())
}

#[test]
fn a_server_that_hangs_is_restarted_by_the_rules_and_hangs_nobody_else() -> Result<()> {
    let node = TestNode::start()?;
    let alive = format!("  readinessProbe: {{{HTTP}, periodSeconds: 1}}\n");
    node.write("other.yaml", &probed("other", "200", &alive)?)?;
    node.wait_container("other", "ready", is_ready)?;
    // The probe's grace wins over one that nobody would wait for; the second backoff is for ever.
    let body = format!(
        "  terminationGracePeriodSeconds: 3600\n  restartPolicy: OnFailure\n  \
         restart: {{backoff: {{initial: 0s, factor: 1, max: 1h, jitter: 0}}}}\n  \
         livenessProbe: {{{HTTP}, periodSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}}\n"
    );
    let text = probed("web", "200", &body)?.replacen("  terminationGracePeriodSeconds: 1\n", "", 1);
    node.write("web.yaml", &text)?;
    let pid = node.wait_running("web")?;
    node.wait("a probe to be asked", || Ok((asked(&node, "web", "GET /healthz")? > 0).then_some(())))?;
    ensure!(restarts_of(&node.container("web")?.context("not there")?) == 0, "a healthy one was restarted");
    say(pid, "hang")?;
    node.wait_restarted("web", pid)?;
    node.wait("the events", || {
        let events = node.ok(["events", "--for", "container/web"])?;
        let unhealthy = "Liveness probe failed: Get \"http://localhost:8080/healthz\": no answer within 1 s";
        let killing = "Container web failed liveness probe, will be restarted";
        Ok((events.contains(unhealthy) && events.contains(killing)).then_some(()))
    })?;
    // Meanwhile the other one was asked on, and stayed ready.
    let before = asked(&node, "other", "GET /healthz")?;
    node.wait("the other one to be asked", || {
        Ok((asked(&node, "other", "GET /healthz")? > before).then_some(()))
    })?;
    ensure!(is_ready(&node.container("other")?.context("not there")?), "the other one is not ready");
    ensure!(node.metric("stower_prober_probe_total")? > 0.0);
    Ok(())
}

#[test]
fn what_liveness_ends_backs_off_and_a_policy_of_never_is_kept() -> Result<()> {
    let node = TestNode::start()?;
    let probe = format!("  livenessProbe: {{{HTTP}, periodSeconds: 1, failureThreshold: 1}}\n");
    let backoff = "  restart: {backoff: {initial: 1h, max: 1h}}\n";
    node.write("waits.yaml", &probed("waits", "500", &format!("{backoff}{probe}"))?)?;
    node.write("never.yaml", &probed("never", "500", &format!("  restartPolicy: Never\n{probe}"))?)?;
    let message = node.wait_waiting("waits", &["CrashLoopBackOff"])?;
    ensure!(message.contains("its liveness probe failed"), "{message}");
    let item = node.wait_container("never", "at its end", |item| item["status"]["phase"] == "Failed")?;
    ensure!(restarts_of(&item) == 0 && item["status"]["ready"] == false, "{}", item["status"]);
    let events = node.ok(["events", "--for", "container/never"])?;
    ensure!(
        events.contains("Container never failed liveness probe") && !events.contains("will be restarted"),
        "{events}"
    );
    Ok(())
}

#[test]
fn a_slow_start_is_waited_for_and_only_startup_is_asked() -> Result<()> {
    let node = TestNode::start()?;
    let body = "  startupProbe: {httpGet: {path: /startup, port: 8080}, periodSeconds: 1, failureThreshold: 1000}\n  \
                livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 1}\n  \
                readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}\n";
    node.write("slow.yaml", &probed("slow", "503", body)?)?;
    let pid = node.wait_running("slow")?;
    node.wait("some failures", || Ok((asked(&node, "slow", "GET /startup")? >= 3).then_some(())))?;
    let item = node.container("slow")?.context("not there")?;
    ensure!(item["status"]["started"] == false && restarts_of(&item) == 0, "{}", item["status"]);
    ensure!(condition(&item, "Ready") == Some(("False", "NotStarted")), "{}", item["status"]);
    ensure!(asked(&node, "slow", "GET /live")? + asked(&node, "slow", "GET /ready")? == 0);
    say(pid, "200")?;
    let item = node.wait_container("slow", "ready", is_ready)?;
    ensure!(item["status"]["started"] == true, "{}", item["status"]);
    let startups = asked(&node, "slow", "GET /startup")?;
    node.wait("liveness to be asked", || Ok((asked(&node, "slow", "GET /live")? >= 2).then_some(())))?;
    ensure!(asked(&node, "slow", "GET /startup")? == startups, "startup was asked again");
    let described = node.ok(["describe", "container", "slow"])?;
    let line = "http-get http://:8080/live delay=0s timeout=1s period=1s #success=1 #failure=1";
    ensure!(described.contains(line) && described.contains("Last Liveness:"), "{described}");
    Ok(())
}

#[test]
fn what_never_starts_is_restarted() -> Result<()> {
    let node = TestNode::start()?;
    let body = format!("  startupProbe: {{{HTTP}, periodSeconds: 1, failureThreshold: 2}}\n");
    node.write("never.yaml", &probed("never", "503", &body)?)?;
    let pid = node.wait_running("never")?;
    node.wait_restarted("never", pid)?;
    let events = node.ok(["events", "--for", "container/never"])?;
    ensure!(events.contains("Container never failed startup probe, will be restarted"), "{events}");
    Ok(())
}

#[test]
fn an_agents_death_changes_nothing_of_what_is_ready_and_restarts_nothing() -> Result<()> {
    let node = TestNode::start()?;
    let body = format!(
        "  startupProbe: {{{HTTP}, periodSeconds: 1}}\n  livenessProbe: {{{HTTP}, periodSeconds: 1, failureThreshold: 2}}\n  \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1, failureThreshold: 1}}\n"
    );
    node.write("web.yaml", &probed("web", "200", &body)?)?;
    let item = node.wait_container("web", "ready", is_ready)?;
    let pid = item["status"]["state"]["running"]["pid"].clone();
    for _ in 0..3 {
        node.kill_agent()?;
        node.start_agent()?;
        // What the new agent says first of all.
        let item = node.container("web")?.context("not there")?;
        ensure!(is_ready(&item) && item["status"]["started"] == true, "{}", item["status"]);
        let before = asked(&node, "web", "GET /ready")?;
        node.wait("probes to go on", || Ok((asked(&node, "web", "GET /ready")? > before + 1).then_some(())))?;
        let item = node.container("web")?.context("not there")?;
        ensure!(is_ready(&item) && restarts_of(&item) == 0, "{}", item["status"]);
        ensure!(item["status"]["state"]["running"]["pid"] == pid, "{}", item["status"]);
    }
    // What is not ready stays so, too.
    let pid = u32::try_from(pid.as_u64().context("no pid")?)?;
    node.write(
        "web.yaml",
        &probed("web", "200", &body.replace("failureThreshold: 2", "failureThreshold: 1000"))?,
    )?;
    say(pid, "500")?;
    node.wait_container("web", "not ready", |item| !is_ready(item))?;
    node.kill_agent()?;
    node.start_agent()?;
    ensure!(!is_ready(&node.container("web")?.context("not there")?), "it became ready by the agent's death");
    Ok(())
}

#[test]
fn an_edit_of_a_probe_needs_no_new_process() -> Result<()> {
    let node = TestNode::start()?;
    let body = |path: &str| {
        format!("  readinessProbe: {{httpGet: {{path: {path}, port: 8080}}, periodSeconds: 1}}\n")
    };
    node.write("web.yaml", &probed("web", "200", &body("/one"))?)?;
    node.wait_container("web", "ready", is_ready)?;
    let pid = node.wait_running("web")?;
    node.write("web.yaml", &probed("web", "200", &body("/two"))?)?;
    node.wait("the new path to be asked", || Ok((asked(&node, "web", "GET /two")? > 0).then_some(())))?;
    ensure!(node.wait_running("web")? == pid, "it was replaced");
    ensure!(is_ready(&node.container("web")?.context("not there")?), "it was not ready for an edit");
    Ok(())
}

#[test]
fn redirects_to_elsewhere_are_a_success_with_a_warning() -> Result<()> {
    let node = TestNode::start()?;
    let body = format!("  readinessProbe: {{{HTTP}, periodSeconds: 1}}\n");
    node.write("web.yaml", &probed("web", "302", &body)?)?;
    node.wait_container("web", "ready", is_ready)?;
    let events = node.ok(["events", "--for", "container/web"])?;
    ensure!(
        events.contains("ProbeWarning")
            && events.contains("Readiness probe warning: Probe terminated redirects"),
        "{events}"
    );
    Ok(())
}

#[test]
fn an_exec_probe_that_hangs_is_killed_and_what_cannot_be_run_counts_for_nothing() -> Result<()> {
    let node = TestNode::start()?;
    let probe = |command: &str| {
        format!(
            "  livenessProbe: {{exec: {{command: {command}}}, periodSeconds: 1, failureThreshold: 1000}}\n"
        )
    };
    node.write("hangs.yaml", &probed("hangs", "hang", &probe("[/payload, is, x]"))?)?;
    node.write("none.yaml", &probed("none", "200", &probe("[/no/such/program]"))?)?;
    let failed = |name: &str, result: &str| {
        node.wait_container(name, &format!("told {result}"), |item| {
            item["status"]["probes"][0]["result"] == result
        })
    };
    let item = failed("hangs", "Failure")?;
    let message = item["status"]["probes"][0]["message"].as_str().unwrap_or_default().to_owned();
    ensure!(message == "command \"/payload is x\" timed out after 1 s", "{message}");
    failed("none", "Unknown")?;
    // Each that was killed is gone: there are never more than the one that is asked now and the one that is ending.
    for _ in 0..3 {
        let before = node.metric("stower_prober_probe_total")?;
        node.wait("another probe", || {
            Ok((node.metric("stower_prober_probe_total")? > before + 1.0).then_some(()))
        })?;
        let left = node.footprint().processes.len();
        ensure!(left <= 10, "{left} processes: {:?}", node.footprint().processes);
    }
    Ok(())
}

#[test]
fn many_containers_with_hung_probes_take_few_threads_and_leave_nothing() -> Result<()> {
    let node = TestNode::start()?;
    let body = format!(
        "  readinessProbe: {{{HTTP}, periodSeconds: 1}}\n  livenessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n"
    );
    let count = 20;
    let all: Result<Vec<String>> = (0..count).map(|n| probed(&format!("web{n}"), "hang", &body)).collect();
    node.write("all.yaml", &all?.join("---\n"))?;
    for n in 0..count {
        node.wait_container(&format!("web{n}"), "asked", |item| {
            item["status"]["probes"].as_array().is_some_and(|all| all.len() == 2)
        })?;
    }
    let look = || node.agent_descriptors_and_threads();
    let (descriptors, threads) = look()?;
    let asked = node.metric("stower_prober_probe_total")?;
    node.wait("many more probes", || {
        Ok((node.metric("stower_prober_probe_total")? > asked + 10.0 * f64::from(count)).then_some(()))
    })?;
    node.wait("as few descriptors and threads as before", || {
        let now = look()?;
        Ok((now.0 <= descriptors + usize::try_from(count)? + 8 && now.1 <= threads + 4).then_some(()))
    })?;
    ensure!(look()?.1 < 60, "{} threads", look()?.1);
    Ok(())
}

#[test]
fn hooks_ask_by_http_in_the_containers_own_network() -> Result<()> {
    let node = TestNode::start()?;
    let hook = "  lifecycle: {preStop: {httpGet: {path: /bye, port: 8080}}}\n";
    // Any answer will do.
    node.write("web.yaml", &probed("web", "500", hook)?)?;
    node.wait("it to listen", || Ok((asked(&node, "web", "listening")? > 0).then_some(())))?;
    node.ok(["stop", "web"])?;
    ensure!(asked(&node, "web", "GET /bye HTTP/1.1")? == 1, "{}", node.ok(["logs", "web"])?);
    let events = node.ok(["events", "--for", "container/web"])?;
    ensure!(!events.contains("FailedPreStopHook"), "{events}");
    let hook = "  restartPolicy: Never\n  lifecycle: {postStart: {httpGet: {port: 9}}}\n";
    node.write("deaf.yaml", &probed("deaf", "200", hook)?)?;
    node.wait_container("deaf", "ended", |item| item["status"]["phase"] == "Failed")?;
    let events = node.ok(["events", "--for", "container/deaf"])?;
    ensure!(events.contains("FailedPostStartHook") && events.contains("127.0.0.1:9: connect"), "{events}");
    Ok(())
}
