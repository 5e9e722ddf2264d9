//! Logs over a real socket, on files written as the shim writes them.

use std::{fs, io::Write, path::PathBuf};

use hyper::Method;
use serde_json::json;

use crate::api::tests::{Served, container, served};

const LOG: &str = "/apis/stower.dev/v1alpha1/namespaces/default/containers/a/log";

/// A node with a container that has a log directory.
struct Logged {
    served: Served,
    dir: PathBuf,
    _tmp: tempfile::TempDir,
}

fn logged() -> Logged {
    let served = served(&["a"]);
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("logs");
    served.memory.log_in(&dir);
    Logged { served, dir, _tmp: tmp }
}

impl Logged {
    /// Adds records to a run's file; each is `second text`.
    fn write(&self, run: u64, records: &[(u8, &str)]) {
        fs::create_dir_all(&self.dir).unwrap();
        let path = self.dir.join(format!("{run}-0.log"));
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        for (second, text) in records {
            writeln!(file, "2026-11-21T10:00:{second:02}.000000000Z stdout F {text}").unwrap();
        }
    }

    async fn get(&self, query: &str) -> String {
        self.served.client.text(&format!("{LOG}{query}")).await.unwrap_or_else(|error| error.to_string())
    }

    fn state(&self, version: u64, status: serde_json::Value) {
        let mut object = container("a", version);
        object.object["status"] = status;
        self.served.memory.set(object);
    }
}

#[tokio::test]
async fn the_latest_run_is_read_and_the_one_before_on_request() {
    let logged = logged();
    logged.write(1, &[(1, "old")]);
    logged.write(2, &[(2, "one"), (3, "two")]);
    assert_eq!(logged.get("").await, "one\ntwo\n");
    assert_eq!(logged.get("?previous=true").await, "old\n");
    assert_eq!(logged.get("?tailLines=1").await, "two\n");
    assert_eq!(logged.get("?tailLines=0").await, "");
    assert_eq!(logged.get("?sinceTime=2026-11-21T10:00:03Z").await, "two\n");
    assert_eq!(logged.get("?limitBytes=5").await, "one\nt");
    assert_eq!(logged.get("?timestamps=true&tailLines=1").await, "2026-11-21T10:00:03.000000000Z two\n");
    assert_eq!(logged.get("?sinceSeconds=1").await, "", "a minute of the past is not young");
}

#[tokio::test]
async fn without_a_log_the_answer_says_why() {
    let logged = logged();
    logged.state(2, json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}}));
    let waiting =
        "Error from server (BadRequest): container \"a\" is waiting to start: ErrImagePull (no such host)";
    assert_eq!(logged.get("").await, waiting, "no directory");
    fs::create_dir(&logged.dir).unwrap();
    assert_eq!(logged.get("").await, waiting, "no run");
    logged.write(1, &[(1, "one")]);
    assert_eq!(
        logged.get("?previous=true").await,
        "Error from server (BadRequest): previous terminated container \"a\" not found"
    );
}

#[tokio::test]
async fn a_silent_container_has_an_empty_log() {
    let logged = logged();
    logged.state(2, json!({"phase": "Running", "state": {"running": {"pid": 1}}}));
    fs::create_dir(&logged.dir).unwrap();
    assert_eq!(logged.get("").await, "");
}

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let logged = logged();
    logged.write(1, &[(1, "one")]);
    for query in [
        "?follow=true&previous=true",
        "?sinceSeconds=1&sinceTime=2026-11-21T10:00:03Z",
        "?sinceSeconds=0",
        "?sinceTime=yesterday",
        "?tailLines=-1",
        "?follow=maybe",
        "?stream=stdout",
    ] {
        assert!(logged.get(query).await.starts_with("Error from server (BadRequest): "), "{query}");
    }
}

#[tokio::test]
async fn following_goes_over_restarts_and_ends_with_the_container() {
    let logged = logged();
    logged.state(2, json!({"phase": "Running", "state": {"running": {"pid": 1}}}));
    logged.write(1, &[(1, "one")]);
    let mut stream =
        logged.served.client.stream(Method::GET, &format!("{LOG}?follow=true"), None).await.unwrap();
    assert_eq!(stream.line().await.unwrap().unwrap(), b"one");
    logged.write(1, &[(2, "two")]);
    assert_eq!(stream.line().await.unwrap().unwrap(), b"two");
    logged.write(2, &[(3, "again")]);
    assert_eq!(stream.line().await.unwrap().unwrap(), b"again");
    logged.state(3, json!({"phase": "Running", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}));
    logged.write(3, &[(4, "third")]);
    assert_eq!(stream.line().await.unwrap().unwrap(), b"third");
    logged.state(4, json!({"phase": "Succeeded", "state": {"terminated": {"exitCode": 0}}}));
    assert_eq!(stream.line().await.unwrap(), None);
}

#[tokio::test]
async fn following_begins_before_the_first_line() {
    let logged = logged();
    logged.state(2, json!({"phase": "Running", "state": {"running": {"pid": 1}}}));
    fs::create_dir(&logged.dir).unwrap();
    let mut stream = logged
        .served
        .client
        .stream(Method::GET, &format!("{LOG}?follow=true&tailLines=0"), None)
        .await
        .unwrap();
    logged.write(1, &[(1, "one")]);
    assert_eq!(stream.line().await.unwrap().unwrap(), b"one");
    logged.served.memory.remove_named("a");
    assert_eq!(stream.line().await.unwrap(), None);
}

#[tokio::test]
async fn a_line_that_is_never_ended_comes_with_the_end() {
    let logged = logged();
    logged.state(2, json!({"phase": "Running", "state": {"running": {"pid": 1}}}));
    logged.write(1, &[(1, "one")]);
    let path = logged.dir.join("1-0.log");
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"2026-11-21T10:00:02.000000000Z stdout P begin\n").unwrap();
    assert_eq!(logged.get("").await, "one\nbegin");
    let mut stream =
        logged.served.client.stream(Method::GET, &format!("{LOG}?follow=true"), None).await.unwrap();
    assert_eq!(stream.line().await.unwrap().unwrap(), b"one");
    file.write_all(b"2026-11-21T10:00:03.000000000Z stdout F  end\n").unwrap();
    assert_eq!(stream.line().await.unwrap().unwrap(), b"begin end");
}

#[tokio::test]
async fn a_long_log_comes_whole() {
    let logged = logged();
    let line = "x".repeat(5000);
    let records: Vec<_> = (0..200).map(|_| (1, line.as_str())).collect();
    logged.write(1, &records);
    assert_eq!(logged.get("").await.len(), 200 * 5001);
}
