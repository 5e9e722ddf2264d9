//! The images of the tests: redis, nginx, PostgreSQL and busybox out of Debian packages, and the project's own
//! static test program alone in an image.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::debian::Tree;
use crate::image::{Compression, Image, ImageBuilder};
use crate::registry::Registry;
use crate::{cache, process, requires, teardown};

/// Documentation and translations, which no test reads.
const LEFT_OUT: [&str; 7] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/info",
    "var/cache",
    "etc",
];

/// What several tests share: the host's client programs and a registry with all images, each made at its first use.
#[derive(Debug)]
pub struct Catalog {
    /// `redis-cli`, `psql`, `curl` and `docker-registry`.
    pub tools: Tree,
    /// The registry that serves the images.
    pub registry: Registry,
    references: Mutex<BTreeMap<usize, String>>,
}

impl Catalog {
    /// The catalog of this process. It fails, with what to do, where the machine does not offer what it needs.
    pub fn get() -> Result<&'static Self> {
        static CATALOG: LazyLock<Result<Catalog, String>> =
            LazyLock::new(|| Catalog::prepare().map_err(|error| format!("{error:#}")));
        CATALOG.as_ref().map_err(|text| anyhow!("{text}"))
    }

    fn prepare() -> Result<Self> {
        requires::all()?;
        let _lock = cache::lock()?;
        teardown::sweep()?;
        let packages = ["docker-registry", "redis-tools", "postgresql-client", "curl"];
        let tools = Tree::of(&packages, &["postgresql-client-1"])?;
        let registry = Registry::start(&tools, &cache::root()?.join("registry"))?;
        Ok(Self { tools, registry, references: Mutex::default() })
    }

    /// Pushes the image to the shared registry, at its first use, and gives its reference there.
    pub fn reference(&self, image: fn() -> Result<Image>) -> Result<String> {
        let mut known = self.references.lock().unwrap_or_else(PoisonError::into_inner);
        // A function's address may be shared with an equal one, which then gives the equal image.
        let key = image as usize;
        if let Some(reference) = known.get(&key) {
            return Ok(reference.clone());
        }
        let _lock = cache::lock()?;
        let reference = self.registry.push(&image()?, "latest")?;
        known.insert(key, reference.clone());
        Ok(reference)
    }

    /// `redis-cli` on a port of the host.
    pub fn redis_cli(&self, port: u16, args: &[&str]) -> Result<String> {
        let mut command = self.tools.command("usr/bin/redis-cli")?;
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(args);
        process::run_command(&mut command)
    }

    /// `curl` of a URL.
    pub fn curl(&self, url: &str) -> Result<String> {
        process::run_command(self.tools.command("usr/bin/curl")?.args([
            "-sS",
            "--fail",
            "--max-time",
            "10",
            url,
        ]))
    }

    /// `psql` on a port of the host: one statement, values only.
    pub fn psql(&self, port: u16, statement: &str) -> Result<String> {
        let mut command = self.psql_command()?;
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-U",
            "postgres",
            "-XAtq",
            "-c",
            statement,
        ]);
        process::run_command(&mut command)
    }

    /// The program `psql`, without arguments.
    pub fn psql_command(&self) -> Result<Command> {
        let versions = self.tools.path.join("usr/lib/postgresql");
        let version = fs::read_dir(&versions)?.next().context("no PostgreSQL client in the tools")??;
        self.tools.command(&format!("usr/lib/postgresql/{}/bin/psql", version.file_name().display()))
    }
}

/// busybox as `/bin/sh` and everything else, with users and an empty `/tmp`. gzip, OCI media types.
pub fn busybox() -> Result<Image> {
    let (folder, key) = base()?;
    let config = json!({
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=hello from the image"],
        "Cmd": ["/bin/sh"],
        "Labels": {"org.example.purpose": "test"},
    });
    ImageBuilder::new("busybox").layer(&folder, Compression::Gzip).config(config).build(&key)
}

/// busybox with one file more: the same programs under another digest.
pub fn busybox_edited() -> Result<Image> {
    let (folder, key) = base()?;
    let extra = cache::once("layers", "edited-1", |staging| Ok(fs::write(staging.join("edited"), "yes\n")?))?;
    let config =
        json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=edited"], "Cmd": ["/bin/sh"]});
    ImageBuilder::new("busybox-edited")
        .layer(&folder, Compression::Gzip)
        .layer(&extra, Compression::Zstd)
        .config(config)
        .build(&key)
}

/// busybox that says it is for a machine which this is not.
pub fn busybox_foreign() -> Result<Image> {
    let (folder, key) = base()?;
    let config = json!({"Cmd": ["/bin/sh"]});
    ImageBuilder::new("busybox-foreign")
        .layer(&folder, Compression::Gzip)
        .architecture("s390x")
        .config(config)
        .build(&key)
}

/// busybox with content of all sorts at `/foo` a little at `/bar` and 12 MiB at `/large`, to fill volumes from.
pub fn filled() -> Result<Image> {
    let (builder, key) = filled_builder("filled")?;
    builder.config(json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]})).build(&key)
}

/// The same as [`filled`], which asks for volumes at `/staged`, where it has content, and at `/anon`, where it has nothing.
pub fn filled_volumes() -> Result<Image> {
    let (builder, key) = filled_builder("filled-volumes")?;
    let config = json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"], "Volumes": {"/foo": {}, "/anon": {}}});
    builder.config(config).build(&key)
}

/// The content of [`filled`], under any name and configuration.
pub fn filled_builder(name: &str) -> Result<(ImageBuilder, String)> {
    let (base, base_key) = base()?;
    let top = cache::once("layers", "filled-2", |staging| {
        let staged = staging.join("foo");
        fs::create_dir_all(staged.join("deep/inner"))?;
        fs::create_dir(staging.join("bar"))?;
        fs::write(staging.join("bar/seed"), "a seed\n")?;
        fs::create_dir(staging.join("large"))?;
        fs::write(staging.join("large/file"), vec![b'y'; 12 << 20])?;
        fs::write(staged.join("file"), "the content of foo\n")?;
        fs::hard_link(staged.join("file"), staged.join("hard"))?;
        symlink("file", staged.join("link"))?;
        symlink("/etc/passwd", staged.join("out"))?;
        fs::write(staged.join("deep/inner/secret"), "not for all\n")?;
        fs::write(staged.join("program"), "#!/bin/sh\n")?;
        fs::write(staged.join("big"), vec![b'x'; 2 << 20])?;
        let own = |path: &str, uid, gid, mode| -> Result<()> {
            std::os::unix::fs::chown(staged.join(path), Some(uid), Some(gid))?;
            Ok(fs::set_permissions(staged.join(path), fs::Permissions::from_mode(mode))?)
        };
        own("", 1000, 1000, 0o750)?;
        own("file", 1000, 1001, 0o640)?;
        own("deep", 1000, 1000, 0o2770)?;
        own("deep/inner/secret", 1, 70, 0o600)?;
        own("program", 0, 0, 0o4755)?;
        rustix::fs::setxattr(staged.join("file"), "user.note", b"kept", rustix::fs::XattrFlags::empty())
            .context("the cache's filesystem has to keep extended attributes: name another in STOWER_CACHE")
    })?;
    let builder = ImageBuilder::new(name).layer(&base, Compression::Gzip).layer(&top, Compression::Gzip);
    Ok((builder, format!("{base_key}-filled-2")))
}

/// redis-server; `PORT` tells where it listens. gzip and zstd layers.
pub fn redis() -> Result<Image> {
    let script = "exec redis-server --port \"${PORT:-6379}\" --bind 127.0.0.1 --save '' --dir /data \"$@\"\n";
    let config = json!({"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": ["/entrypoint.sh"], "User": "daemon:daemon",
        "WorkingDir": "/data", "Volumes": {"/data": {}}});
    service("redis", &["redis-server"], &["redis-tools"], script, "data", config, false)
}

/// nginx; `PORT` tells where it listens. Docker's media types.
pub fn nginx() -> Result<Image> {
    let script = r#"mkdir -p /tmp/nginx
cat > /tmp/nginx.conf <<END
daemon off; user daemon; pid /tmp/nginx.pid; error_log stderr; worker_processes 1;
events { worker_connections 64; }
http { access_log off; client_body_temp_path /tmp/nginx/b; proxy_temp_path /tmp/nginx/p; fastcgi_temp_path /tmp/nginx/f;
 uwsgi_temp_path /tmp/nginx/u; scgi_temp_path /tmp/nginx/s;
 server { listen 127.0.0.1:${PORT:-80}; location / { return 200 "${TEXT:-served by nginx}\n"; } } }
END
exec nginx -e stderr -c /tmp/nginx.conf "$@"
"#;
    let config = json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": ["/entrypoint.sh"], "StopSignal": "SIGQUIT"});
    service("nginx", &["nginx-light", "nginx"], &[], script, "srv", config, true)
}

/// PostgreSQL, whose data directory is made at the first start; `PORT` tells where it listens.
pub fn postgres() -> Result<Image> {
    postgres_build("postgres", 1)
}

/// The same PostgreSQL in a later build of its image: another digest, another writable layer.
pub fn postgres_upgraded() -> Result<Image> {
    postgres_build("postgres-upgraded", 2)
}

fn postgres_build(name: &str, build: u32) -> Result<Image> {
    let script = r#"bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s data/PG_VERSION ]; then
  "$bin/initdb" -D data -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >&2
fi
exec "$bin/postgres" -D data -p "${PORT:-5432}" -c listen_addresses=127.0.0.1 -c unix_socket_directories=/var/run/postgresql \
  -c jit=off -c shared_buffers=16MB -c timezone=GMT -c log_timezone=GMT "$@"
"#;
    let config = json!({"Env": ["PATH=/usr/bin:/bin", format!("BUILD={build}")], "Entrypoint": ["/entrypoint.sh"],
        "User": "postgres", "WorkingDir": "/var/lib/postgresql", "StopSignal": "SIGINT",
        "Volumes": {"/var/lib/postgresql/data": {}}});
    let also = ["postgresql-1", "tzdata"];
    service(name, &["postgresql"], &also, script, "var/lib/postgresql/data", config, false)
}

/// The project's own static test program as the only file, `/payload`. zstd.
pub fn payload() -> Result<Image> {
    let (builder, key) = payload_builder("payload")?;
    builder.build(&key)
}

/// The same as [`payload`], not yet written, under any name.
pub fn payload_builder(name: &str) -> Result<(ImageBuilder, String)> {
    let program = own_program("payload")?;
    let key = cache::sha256_file(&program)?[..16].to_owned();
    let folder = cache::once("layers", &format!("payload-{key}"), |staging| {
        fs::copy(&program, staging.join("payload"))?;
        fs::create_dir(staging.join("tmp"))?;
        fs::set_permissions(staging.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        Ok(())
    })?;
    let config = json!({"Entrypoint": ["/payload"], "Cmd": ["stay"]});
    Ok((ImageBuilder::new(name).layer(&folder, Compression::Gzip).config(config), key))
}

/// A program of this package beside the running one (or beside the `deps` folder that a test runs from).
pub fn own_program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find the running program")?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: cargo build -p stower-e2e --bins"))
}

/// The lowest layer: busybox, users, and the links that merge `/usr` and lead `/var/run` to `/run`.
fn base() -> Result<(PathBuf, String)> {
    let tree = Tree::of(&["busybox-static"], &[])?;
    let key = format!("base-2-{}", tree.key);
    let folder = cache::once("layers", &key, |staging| {
        for folder in
            ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "run", "var", "proc", "sys", "dev", "root"]
        {
            fs::create_dir_all(staging.join(folder))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), staging.join(link))?;
        }
        symlink("../run", staging.join("var/run"))?;
        fs::create_dir(staging.join("tmp"))?;
        fs::set_permissions(staging.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::copy(tree.path.join("usr/bin/busybox"), staging.join("usr/bin/busybox"))?;
        let names = process::run(tree.path.join("usr/bin/busybox"), ["--list"])?;
        for name in names.lines().filter(|name| *name != "busybox") {
            symlink("busybox", staging.join("usr/bin").join(name))?;
        }
        fs::write(
            staging.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/tmp:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n",
        )?;
        fs::write(
            staging.join("etc/group"),
            "root:x:0:\ndaemon:x:1:\ntty:x:5:\npostgres:x:70:\nextra:x:1234:daemon\n",
        )?;
        Ok(())
    })?;
    Ok((folder, key))
}

/// busybox below, the service's packages above. What follows a dash in `name` tells one build of it from another.
fn service(
    name: &str,
    packages: &[&str],
    also: &[&str],
    script: &str,
    home: &str,
    config: Value,
    docker: bool,
) -> Result<Image> {
    let (base, base_key) = base()?;
    let tree = Tree::of(packages, also)?;
    let service = name.split('-').next().unwrap_or(name);
    let key =
        format!("{service}-{}-{}", tree.key, &cache::sha256(format!("2{script}{home}").as_bytes())[..8]);
    let owner = match config["User"].as_str() {
        Some("postgres") => 70,
        Some(_) => 1,
        None => 0,
    };
    let top = cache::once("layers", &key, |staging| {
        let mut copy = Command::new("tar");
        copy.arg("-C").arg(&tree.path).arg("-c");
        for folder in LEFT_OUT {
            copy.arg(format!("--exclude=./{folder}"));
        }
        // The links that merge /usr are the lower layer's.
        for link in ["bin", "sbin", "lib", "lib64", "var/run"] {
            copy.arg(format!("--exclude=./{link}"));
        }
        let script_line = "set -e; \"$@\" . | tar -x --numeric-owner -C \"$0\"";
        let mut pipe = Command::new("bash");
        pipe.args(["-o", "pipefail", "-c", script_line]).arg(staging);
        pipe.arg(copy.get_program()).args(copy.get_args());
        process::run_command(&mut pipe)?;
        let entry = staging.join("entrypoint.sh");
        fs::write(&entry, format!("#!/bin/sh\nset -e\n{script}"))?;
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o755))?;
        // Through the lower layer's link: /var/run/NAME is /run/NAME in the container.
        for folder in [home.to_owned(), format!("var/run/{service}ql"), format!("var/log/{service}")] {
            make_owned(&staging.join(folder), owner)?;
        }
        Ok(())
    })?;
    let mut builder = ImageBuilder::new(name)
        .layer(&base, Compression::Gzip)
        .layer(&top, if docker { Compression::Gzip } else { Compression::Zstd });
    if docker {
        builder = builder.docker();
    }
    builder.config(config).build(&format!("{base_key}-{key}"))
}

fn make_owned(folder: &Path, owner: u32) -> Result<()> {
    fs::create_dir_all(folder)?;
    std::os::unix::fs::chown(folder, Some(owner), Some(owner))
        .with_context(|| format!("chown {}", folder.display()))
}
