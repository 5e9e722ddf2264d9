//! The Helm charts, without a cluster: what they are made into, and which values they refuse.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use stower_e2e::cluster::helm::{Helm, chart};

/// Values that switch everything on.
const ALL: &str = "readNamespaces: [shop, default]\nmetrics: {enabled: true}\npodMonitor: {enabled: true, labels: {release: prometheus}}\n\
                   dashboard: {enabled: true}\nuninstall: {purge: true, timeoutSeconds: 90}\n\
                   agent: {config: {logLevel: debug, images: {gc: {enabled: false}}}, extraArgs: [--storage-driver=native]}\n\
                   kubernetes: {serviceHost: 192.0.2.1, servicePort: 6443}\nimagePullSecrets: [{name: pull}]\n";

/// The documents of a template, by kind and name.
fn documents(text: &str) -> BTreeMap<String, String> {
    let field = |document: &str, name: &str, indent: &str| {
        let start = format!("{indent}{name}: ");
        document
            .lines()
            .find_map(|line| line.strip_prefix(&start).map(|value| value.trim_matches('"').to_owned()))
    };
    text.split("\n---\n")
        .filter_map(|document| {
            let (kind, name) = (field(document, "kind", "")?, field(document, "name", "  ")?);
            Some((format!("{kind}/{name}"), document.to_owned()))
        })
        .collect()
}

#[test]
fn both_charts_pass_helms_own_checks() -> Result<()> {
    let helm = Helm::get()?;
    for name in ["stower", "stower-crds"] {
        let said = helm.ok(["lint".as_ref(), "--strict".as_ref(), chart(name).as_os_str()])?;
        ensure!(said.contains("0 chart(s) failed"), "{said}");
    }
    let values = helm.values(ALL)?;
    helm.ok([
        "lint".as_ref(),
        "--strict".as_ref(),
        "--values".as_ref(),
        values.as_os_str(),
        chart("stower").as_os_str(),
    ])?;
    Ok(())
}

#[test]
fn the_chart_of_kinds_has_all_of_them_and_keeps_them() -> Result<()> {
    let said = Helm::get()?.ok(["template".as_ref(), "kinds".as_ref(), chart("stower-crds").as_os_str()])?;
    let documents = documents(&said);
    for plural in ["containers", "volumes", "datacontainers"] {
        let made = documents
            .get(&format!("CustomResourceDefinition/{plural}.stower.dev"))
            .with_context(|| format!("no {plural} in {:?}", documents.keys()))?;
        ensure!(made.contains("helm.sh/resource-policy: keep"), "helm uninstall would remove {plural}");
        let path = stower_e2e::cargo::checkout().join(format!("manifests/crds/{plural}.stower.dev.yaml"));
        for line in fs::read_to_string(path)?.lines() {
            ensure!(made.contains(line), "the chart's {plural} has not {line:?}");
        }
    }
    ensure!(documents.len() == 3, "{:?}", documents.keys());
    Ok(())
}

#[test]
fn the_agent_has_what_it_needs_and_no_more() -> Result<()> {
    let helm = Helm::get()?;
    let plain = documents(&helm.template("")?);
    let set = &plain["DaemonSet/stower"];
    for line in [
        "hostPID: true",
        "hostNetwork: true",
        "automountServiceAccountToken: false",
        "priorityClassName: system-node-critical",
        "maxUnavailable: 10%",
        "- operator: Exists",
        "- --node-name=$(NODE_NAME)",
        "readOnlyRootFilesystem: true",
    ] {
        ensure!(set.lines().any(|it| it.trim() == line), "the DaemonSet has no {line:?}:\n{set}");
    }
    ensure!(!set.contains("hostPath"), "a mount of the host is in the pod, and would be held by it:\n{set}");
    for kind in ["PodMonitor/stower", "ConfigMap/stower-dashboard", "Job/stower-purge"] {
        ensure!(!plain.contains_key(kind), "{kind} is there unasked");
    }
    // Without named namespaces there is no right to any Secret.
    ensure!(
        !plain.values().any(|document| document.contains("resources: [secrets]")),
        "somebody may read Secrets"
    );
    let all = documents(&helm.template(ALL)?);
    for kind in ["PodMonitor/stower", "ConfigMap/stower-dashboard", "Job/stower-purge"] {
        ensure!(all.contains_key(kind), "there is no {kind}: {:?}", all.keys());
    }
    let readers: Vec<_> =
        all.iter().filter(|(_, document)| document.contains("resources: [secrets]")).collect();
    ensure!(readers.iter().all(|(kind, _)| kind.starts_with("Role/")), "{readers:?}");
    let set = &all["DaemonSet/stower"];
    for part in [
        "value: \"192.0.2.1\"",
        "value: \"6443\"",
        "- --storage-driver=native",
        "- --metrics-bind-address=$(HOST_IP):9464",
    ] {
        ensure!(set.contains(part), "the DaemonSet has no {part:?}:\n{set}");
    }
    let dashboard = &all["ConfigMap/stower-dashboard"];
    ensure!(dashboard.contains("stower_container_restarts_total"), "the dashboard is empty");
    Ok(())
}

#[test]
fn a_change_of_the_configuration_is_a_change_of_the_pods() -> Result<()> {
    let helm = Helm::get()?;
    let sum = |values: &str| -> Result<String> {
        let made = documents(&helm.template(values)?);
        let set = made["DaemonSet/stower"].lines();
        Ok(set.into_iter().find(|line| line.contains("checksum/config")).context("no checksum")?.to_owned())
    };
    let (before, after) = (sum("")?, sum("agent: {config: {logLevel: debug}}")?);
    ensure!(before != after, "the agents would go on with the former configuration");
    ensure!(before == sum("podLabels: {a: b}")?, "{before}");
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused_by_name() -> Result<()> {
    let helm = Helm::get()?;
    for (values, named) in [
        ("unknown: true", "unknown"),
        ("image: {repo: x}", "repo"),
        ("image: {digest: latest}", "digest"),
        ("image: {pullPolicy: Sometimes}", "pullPolicy"),
        ("agent: {dataRoot: var/lib/stower}", "dataRoot"),
        ("agent: {config: text}", "config"),
        ("readNamespaces: [Shop]", "readNamespaces"),
        ("readNamespaces: shop", "readNamespaces"),
        ("policies: {node: 'yes'}", "node"),
        ("updateStrategy: {rollingUpdate: {maxSurge: 1}}", "maxSurge"),
        ("metrics: {port: 0}", "port"),
        ("kubernetes: {servicePort: https}", "servicePort"),
        ("uninstall: {purge: 1}", "purge"),
        ("uninstall: {timeoutSeconds: 0}", "timeoutSeconds"),
        ("podMonitor: {enabled: true}", "metrics.enabled"),
    ] {
        let file = helm.values(values)?;
        let chart = chart("stower");
        let said = helm.refused([
            "template".as_ref(),
            "stower".as_ref(),
            chart.as_os_str(),
            "--values".as_ref(),
            file.as_os_str(),
        ])?;
        ensure!(said.contains(named), "{values}: {said}");
    }
    Ok(())
}
