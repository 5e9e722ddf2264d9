//! redis and PostgreSQL as containers of an agent in the machine, on the storage drivers, where cgroup v2 is alone; over an
//! agent that is killed, and over a reboot.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stower_e2e::vm::Mirror;
use stower_e2e::{Catalog, Vm, VmOptions, catalog, node};

/// Where the guest has the agent.
const STOWER: &str = "/usr/bin/stower";
/// For a service to answer. The emulator is ten times slower than the machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// For an image to be unpacked and synced.
const IMPORT: Duration = Duration::from_secs(300);
/// The agent, until it is ended; its log lasts over its starts.
const AGENT: &str = "mkdir -p /etc/stower/manifests; stower agent --data-root /data/stower $(cat /root/driver) \
                     >>/var/log/stower.log 2>&1 </dev/null & echo $! > /run/agent.pid";

const REDIS: &str = "apiVersion: stower.dev/v1alpha1
kind: Container
metadata: {name: redis}
spec:
  image: localhost/redis:1
  hostNetwork: true
  restartPolicy: Always
";

const POSTGRES: &str = "apiVersion: stower.dev/v1alpha1
kind: DataContainer
metadata: {name: postgres-data}
spec:
  image: localhost/postgres:1
  volumes: [{mountPath: /var/lib/postgresql/data}]
---
apiVersion: stower.dev/v1alpha1
kind: Container
metadata: {name: postgres}
spec:
  image: localhost/postgres:1
  hostNetwork: true
  terminationGracePeriodSeconds: 60
  volumesFrom: [{name: postgres-data}]
";

struct Guest {
    vm: Vm,
    redis_cli: String,
    psql: String,
}

impl Guest {
    /// A machine with the images' layouts, the clients and a data root on a filesystem of its own.
    fn boot(mkfs: &str, agent: &str) -> Result<Self> {
        let catalog = Catalog::get()?;
        let mirror = Mirror::new()?;
        mirror.add_program_as(&node::binary()?, STOWER)?;
        mirror.add(&catalog.tools.path)?;
        for image in [catalog::redis()?, catalog::postgres()?] {
            mirror.add(&image.layout)?;
        }
        let folders = vec![("mirror".to_owned(), mirror.path().to_owned())];
        let disks = vec![("data".to_owned(), 8 << 30)];
        let mut vm = Vm::boot(VmOptions { folders, disks, memory: 1536, ..VmOptions::default() })?;
        vm.ok(&format!("{mkfs} /dev/disk/by-id/data && mkdir /data && cp -a /host/mirror/. /"))?;
        vm.write("/root/driver", 0o644, agent.as_bytes())?;
        let mut redis_cli = catalog.tools.command("usr/bin/redis-cli")?;
        let mut psql = catalog.psql_command()?;
        psql.args(["-h", "127.0.0.1", "-U", "postgres", "-XAtq", "-c"]);
        let redis_cli = words(redis_cli.args(["-h", "127.0.0.1"]))?;
        let mut guest = Self { vm, redis_cli, psql: words(&psql)? };
        guest.start()?;
        for image in [catalog::redis()?, catalog::postgres()?] {
            let import = format!("stower image import {} localhost/{}:1", image.layout.display(), image.name);
            let output = guest.vm.run(&["sh", "-c", &import], IMPORT)?;
            ensure!(output.code == 0, "{}", output.text);
        }
        Ok(guest)
    }

    /// Mounts the data root and starts the agent.
    fn start(&mut self) -> Result<()> {
        self.vm.ok("mountpoint -q /data || mount /dev/disk/by-id/data /data")?;
        self.agent()
    }

    fn agent(&mut self) -> Result<()> {
        self.vm.ok(AGENT)?;
        self.wait("stower get containers", "")
    }

    /// Runs a command until it succeeds and says what is wanted.
    fn wait(&mut self, command: &str, wanted: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = self.vm.run(&["sh", "-c", command], PATIENCE)?;
            if output.code == 0 && output.text.contains(wanted) {
                return Ok(());
            }
            if Instant::now() > end {
                let told = "stower get containers -o yaml; stower events; tail -40 /var/log/stower.log";
                let story = self.vm.run(&["sh", "-c", told], PATIENCE)?.text;
                bail!("`{command}` does not say {wanted:?} but {:?}\n{story}", output.text);
            }
        }
    }

    fn redis(&mut self, command: &str, wanted: &str) -> Result<()> {
        let command = format!("{} {command}", self.redis_cli);
        self.wait(&command, wanted)
    }

    fn postgres(&mut self, statement: &str, wanted: &str) -> Result<()> {
        let command = format!("{} \"{statement}\"", self.psql);
        self.wait(&command, wanted)
    }

    /// Both come up, and keep what they are told over a kill of the agent and a reboot; what a file's end asks for is done.
    fn story(&mut self, driver: &str) -> Result<()> {
        let info = self.vm.ok("stower storage info")?;
        ensure!(info.contains(driver), "the agent uses another driver than {driver}: {info}");
        self.vm.write("/etc/stower/manifests/redis.yaml", 0o644, REDIS.as_bytes())?;
        self.vm.write("/etc/stower/manifests/postgres.yaml", 0o644, POSTGRES.as_bytes())?;
        self.redis("ping", "PONG")?;
        self.redis("set cargo tea", "OK")?;
        self.postgres("select 6 * 7", "42")?;
        self.postgres("create table crate(id int)", "")?;
        self.postgres("insert into crate select generate_series(1, 1000)", "")?;

        self.vm.ok("kill -9 $(cat /run/agent.pid)")?;
        self.redis("get cargo", "tea")?;
        self.agent()?;
        self.redis("get cargo", "tea")?;
        self.postgres("select count(*), sum(id) from crate", "1000|500500")?;

        self.vm.ok("stower commit redis localhost/kept:1 && stower diff postgres | grep -q .")?;
        self.vm.reboot()?;
        self.start()?;
        self.redis("ping", "PONG")?;
        self.postgres("select count(*), sum(id) from crate", "1000|500500")?;
        self.vm.ok("rm /etc/stower/manifests/redis.yaml")?;
        self.wait(
            "test $(stower get containers -o name | wc -l) = 1 && stower get containers -o name",
            "postgres",
        )?;
        Ok(())
    }
}

/// A command as a shell takes it.
pub(crate) fn words(command: &Command) -> Result<String> {
    let all: Vec<OsString> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(Into::into).collect();
    let quoted = |word: &OsString| {
        let text = std::str::from_utf8(word.as_bytes()).context("an odd path")?;
        Ok(format!("'{text}'"))
    };
    Ok(all.iter().map(quoted).collect::<Result<Vec<_>>>()?.join(" "))
}

#[test]
fn redis_and_postgres_run_on_overlay() -> Result<()> {
    Guest::boot("mkfs.ext4 -q -F", "--storage-driver overlay")?.story("overlay")
}

#[test]
fn redis_and_postgres_run_on_devicemapper() -> Result<()> {
    let mut guest = Guest::boot("mkfs.ext4 -q -F", "--storage-driver devicemapper")?;
    guest.story("devicemapper")?;
    // What the containers and the images are in is a thin pool, and nothing of it is mounted where the host would see it.
    let devices = guest
        .vm
        .ok("dmsetup ls --target thin; dmsetup ls --target thin-pool; du -sh /data/stower/snapshots")?;
    println!("{devices}");
    ensure!(devices.lines().filter(|line| line.contains("stower-")).count() >= 2, "{devices}");
    let mounts = guest.vm.ok("cat /proc/self/mounts")?;
    ensure!(!mounts.contains("/dev/dm-") && !mounts.contains("/dev/mapper"), "{mounts}");
    Ok(())
}
