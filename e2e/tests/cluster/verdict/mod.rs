//! One verdict: what the API server says of a document, the agent says too.
//!
//! Documents of the repository, faults one by one and objects by chance go through the real server (`fieldValidation=Strict`,
//! `dryRun=All`) and through `stower_crds::admit`. Accepted or refused, the paths and the texts of our CEL rules are equal, and what is
//! accepted is the same object whether the agent reads the document or what the server made of it. [`compare::excused`] lists
//! the differences that are meant.

mod compare;
mod generate;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stower_crds::{AdmitContext, Kind, Limits, admit, read_documents};
use stower_e2e::{Cluster, cargo};

use self::compare::Rules;
use self::generate::Chance;
use self::server::{Server, Verdict};

/// A document and the one that it replaces.
struct Case {
    name: String,
    kind: Kind,
    new: Value,
    old: Option<Value>,
}

/// Asks both about all cases and fails with the first differences.
fn all_agree(what: &str, namespace: &str, cases: &[Case]) -> Result<()> {
    let cluster = Cluster::shared()?;
    let server = Server { cluster, namespace };
    let rules = Rules::of_all_kinds();
    let (next, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let differences = Mutex::new(Vec::new());
    let excused = Mutex::new(BTreeMap::<&str, usize>::new());
    let work = || -> Result<()> {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let theirs = server.verdict(case.kind, &case.new, case.old.as_ref())?;
            let old = case.old.clone().map(|old| admit(old, &AdmitContext::default()));
            let Ok(old) = old.transpose() else {
                bail!("{}: the agent refuses what the server stored", case.name)
            };
            let context = AdmitContext { old: old.as_ref(), ..AdmitContext::default() };
            let ours = admit(case.new.clone(), &context);
            if ours.is_ok() && matches!(theirs, Verdict::Accepted(_)) {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(reason) = compare::excused(&ours, &theirs) {
                *excused.lock().unwrap_or_else(|it| it.into_inner()).entry(reason).or_default() += 1;
            } else if let Err(difference) = compare::equal(&rules, &ours, &theirs) {
                let document = serde_json::to_string(&case.new)?;
                let document: String = document.chars().take(600).collect();
                let told = format!("{}: {difference:#}\n  document: {document}", case.name);
                differences.lock().unwrap_or_else(|it| it.into_inner()).push(told);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    let differences = differences.into_inner().unwrap_or_else(|it| it.into_inner());
    let (accepted, excused) = (accepted.into_inner(), excused.into_inner().unwrap_or_default());
    println!("{what}: {} documents, {accepted} accepted by both; meant to differ: {excused:?}", cases.len());
    ensure!(
        differences.is_empty(),
        "{} of {} {what} have two verdicts; some of them:\n{}",
        differences.len(),
        cases.len(),
        differences
            .iter()
            .step_by(differences.len().div_ceil(15))
            .take(15)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
    ensure!(accepted > 0, "no document was accepted");
    Ok(())
}

#[test]
fn documents_of_the_repository() -> Result<()> {
    Cluster::shared()?.namespace("verdict-files", "privileged")?;
    let mut cases = Vec::new();
    let mut no_json = Vec::new();
    for folder in ["manifests/examples", "manifests/examples/services", "manifests/invalid"] {
        for entry in fs::read_dir(cargo::checkout().join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let name = path.file_name().context("a file without a name")?.to_string_lossy().into_owned();
            // YAML that nobody can read never comes to a server: kubectl sends JSON.
            let Ok(documents) = read_documents(&fs::read(&path)?, &Limits::default()) else {
                no_json.push(name);
                continue;
            };
            for (at, document) in documents.into_iter().enumerate() {
                let kind = document.value["kind"].as_str().unwrap_or_default();
                let api = document.value["apiVersion"].as_str().unwrap_or_default();
                let kind = Kind::ALL.iter().find(|it| it.as_str() == kind && it.api_version() == api);
                match kind {
                    Some(kind) => cases.push(Case {
                        name: format!("{name}[{at}]"),
                        kind: *kind,
                        new: document.value,
                        old: None,
                    }),
                    // A server knows no path for it.
                    None => ensure!(
                        admit(document.value, &AdmitContext::default()).is_err(),
                        "{name} is of no known kind, and was accepted"
                    ),
                }
            }
        }
    }
    no_json.sort();
    ensure!(
        no_json == ["alias-bomb.yaml", "duplicate-key.yaml", "unclosed.yaml"],
        "not read at all: {no_json:?}"
    );
    all_agree("documents of the repository", "verdict-files", &cases)
}

#[test]
fn every_field_with_every_fault() -> Result<()> {
    Cluster::shared()?.namespace("verdict-faults", "privileged")?;
    let cases: Vec<Case> = Kind::CUSTOM
        .iter()
        .flat_map(|kind| {
            let documents = generate::faults(*kind).into_iter();
            documents.map(|(name, new)| Case { name, kind: *kind, new, old: None })
        })
        .collect();
    ensure!(cases.len() > 2000, "only {} faults were found in the schemas", cases.len());
    all_agree("faults", "verdict-faults", &cases)
}

#[test]
fn objects_by_chance() -> Result<()> {
    Cluster::shared()?.namespace("verdict-chance", "privileged")?;
    let mut cases = Vec::new();
    for kind in Kind::CUSTOM {
        for seed in 0..400 {
            let new = generate::object(*kind, &mut Chance::new(seed), 8);
            cases.push(Case { name: format!("{kind:?} by seed {seed}"), kind: *kind, new, old: None });
        }
    }
    all_agree("objects by chance", "verdict-chance", &cases)
}

/// What may not change: each object that the server really has, and changes of it.
#[test]
fn changes_of_what_is_there() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.namespace("verdict-changes", "privileged")?;
    let server = Server { cluster, namespace: "verdict-changes" };
    let mut cases = Vec::new();
    for kind in Kind::CUSTOM {
        let mut stored = Vec::new();
        for seed in 0..400 {
            let mut chance = Chance::new(10_000 + seed);
            let mut object = generate::object(*kind, &mut chance, 0);
            object["metadata"]["name"] = Value::String(format!("change-{seed}"));
            if stored.len() < 20
                && admit(object.clone(), &AdmitContext::default()).is_ok()
                && let Some(object) = server.create(*kind, &object)?
            {
                stored.push((seed, object));
            }
        }
        ensure!(stored.len() == 20, "only {} objects of kind {kind:?} were accepted", stored.len());
        for (seed, old) in &stored {
            for (name, new) in generate::changes(*kind, old, *seed) {
                let name = format!("{kind:?} by seed {seed}, {name}");
                cases.push(Case { name, kind: *kind, new, old: Some(old.clone()) });
            }
        }
    }
    all_agree("changes", "verdict-changes", &cases)
}
