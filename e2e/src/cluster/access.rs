//! Ways to speak to the API server: kubectl, plain requests, and the credentials of agents.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, helm::Helm, write_secret};
use crate::{Output, cargo, http, process};

/// The namespace of agents.
pub const AGENT_NAMESPACE: &str = "stower-system";
/// Their service account.
const AGENT_ACCOUNT: &str = "stower";

impl Cluster {
    /// A kubectl command as the administrator, which writes no cache into anybody's home.
    pub fn kubectl_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.folder());
        command
    }

    /// Runs a kubectl command, whatever it answers.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        Ok(process::output(&mut self.kubectl_command(args))?.into())
    }

    /// Runs a kubectl command that must succeed, and gives its standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        process::run_command(&mut self.kubectl_command(args))
    }

    /// Runs a kubectl command that must fail, and gives what it said on standard error.
    pub fn refused<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.kubectl(args)?;
        ensure!(output.code > 0, "the command was to fail, and ended with {}: {output:?}", output.code);
        Ok(output.stderr)
    }

    /// `kubectl apply -f -` of a text, with more words.
    pub fn apply(&self, text: &str, more: &[&str]) -> Result<String> {
        let file = tempfile::NamedTempFile::new_in(self.folder())?;
        fs::write(file.path(), text)?;
        let mut command = self.kubectl_command(["apply", "-f"]);
        process::run_command(command.arg(file.path()).args(more))
    }

    /// An object as `kubectl get` gives it, if it is there.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.ok(["get", kind, "-n", namespace, name, "--ignore-not-found", "-o", "json"])?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Declares stower's kinds and waits until they are served.
    pub fn apply_kinds(&self) -> Result<()> {
        let folder = cargo::checkout().join("manifests/crds");
        let files = folder.to_str().context("the checkout's path is no text")?;
        self.ok(["apply", "-f", files])?;
        self.ok(["wait", "--for=condition=Established", "--timeout=60s", "-f", files])?;
        Ok(())
    }

    /// Makes a namespace; `level` is that of the Pod Security Standards which it enforces.
    pub fn namespace(&self, name: &str, level: &str) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {"pod-security.kubernetes.io/enforce": level},
        }});
        self.apply(&object.to_string(), &[]).map(drop)
    }

    /// A request as the administrator.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<http::Response> {
        self.request_as(&self.admin_token, method, path, headers, body)
    }

    /// A request of whom a token is.
    pub fn request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<http::Response> {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("Authorization", bearer.as_str()), ("Accept", "application/json")];
        all.extend_from_slice(headers);
        http::tls(&self.address, &self.authority(), method, path, &all, body)
    }

    /// Writes a kubeconfig with one context for a `user` (a map of kubeconfig's `users[].user`). It names the file of the
    /// authority, so it holds after the certificates are renewed.
    pub fn write_kubeconfig(&self, path: &Path, user: &Value) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.address), "certificate-authority": self.authority(),
            }}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        write_secret(path, &config.to_string())
    }

    /// A token of a service account, bound to the Node object of that name, which must be there.
    pub fn node_token(&self, namespace: &str, account: &str, node: &str) -> Result<String> {
        let words = ["create", "token", account, "-n", namespace, "--duration", "24h"];
        let token =
            self.ok(words.iter().chain(&["--bound-object-kind", "Node", "--bound-object-name", node]))?;
        Ok(token.trim().to_owned())
    }

    /// Applies what the chart `stower` has beside its pods: the agents' service account, their roles and the policies.
    pub fn apply_chart(&self, values: &str) -> Result<()> {
        self.namespace(AGENT_NAMESPACE, "privileged")?;
        let made = Helm::get()?.template(values)?;
        let kept: Vec<&str> = made
            .split("\n---\n")
            .filter(|document| !document.contains("kind: DaemonSet") && !document.contains("helm.sh/hook"))
            .collect();
        self.apply(&kept.join("\n---\n"), &[]).map(drop)
    }

    /// Makes the Node object `node` and a kubeconfig whose user has a token bound to that Node, in a file beside it:
    /// `NODE.kubeconfig` and `NODE.token`. It is of the agents' service account, with the chart's own roles and policies; where
    /// nobody applied those, with values read in `default` and without a check of levels.
    pub fn agent_kubeconfig(&self, node: &str) -> Result<PathBuf> {
        if self.object("serviceaccount", AGENT_NAMESPACE, AGENT_ACCOUNT)?.is_none() {
            // The agents are to meet what does not conform: they check it themselves.
            self.apply_chart("readNamespaces: [default]\npolicies: {podSecurity: false}")?;
        }
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        self.apply(&object.to_string(), &[])?;
        let token = self.folder().join(format!("{node}.token"));
        write_secret(&token, &self.node_token(AGENT_NAMESPACE, AGENT_ACCOUNT, node)?)?;
        let path = self.folder().join(format!("{node}.kubeconfig"));
        self.write_kubeconfig(&path, &json!({"tokenFile": token}))?;
        Ok(path)
    }

    /// Everything that changes under a path, as lines of JSON, until the process is killed: `kubectl get --raw …watch=true`.
    pub fn watch(&self, path: &str) -> Result<std::process::Child> {
        let mut command = process::dies_with_us(&self.kubectl_command(["get", "--raw", path]));
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.folder());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        process::spawn_from_lasting_thread(command)
    }
}
