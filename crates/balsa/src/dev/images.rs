//! Images for a development cluster's workers: loaded from a tar, or made of programs of this machine.

use super::cluster::Cluster;
use anyhow::{Context, Result, anyhow, bail};
use runtime::containerd::{Daemon, import};
use runtime::image::{self, Entry, Recipe};
use runtime::reference;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Cluster {
    /// Gives an image to every worker.
    pub(super) fn load(&self, image: &Path) -> Result<()> {
        if self.topology.runtime != "containerd" {
            bail!("the process runtime has no images: containers run this machine's own programs");
        }
        let image = image.canonicalize().with_context(|| format!("finding {}", image.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for name in self.workers() {
            let socket = Daemon::socket(&self.data(&name).run_dir()?);
            runtime.block_on(import(&socket, &image)).with_context(|| format!("giving the image to {name}"))?;
        }
        Ok(())
    }
}

/// Makes an image of programs of this machine and gives it to the workers, or writes it to `out`.
pub(super) fn make(name: &str, programs: &[PathBuf], out: Option<&Path>, dir: &Path) -> Result<()> {
    let name = reference::normalized(name).map_err(|why| anyhow!("the image's name {name:?}: {why}"))?;
    let mut recipe = Recipe { reference: name.clone(), ..Recipe::default() };
    for program in programs {
        let program = program.canonicalize().with_context(|| format!("finding {}", program.display()))?;
        let base = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        recipe.entries.extend(image::program(&program, &format!("bin/{base}"))?);
        if base == "busybox" {
            let listed = Command::new(&program).arg("--list").output()?;
            let applets = String::from_utf8_lossy(&listed.stdout).into_owned();
            let link = |applet: &str| Entry::Link { to: format!("/bin/{applet}"), target: "/bin/busybox".into() };
            recipe.entries.extend(applets.lines().filter(|applet| *applet != "busybox").map(link));
            recipe.cmd = vec!["sh".into()];
        } else if recipe.cmd.is_empty() {
            recipe.cmd = vec![format!("/bin/{base}")];
        }
    }
    recipe.entries.extend(["etc", "tmp", "var"].map(|to| Entry::Dir { to: to.into() }));
    if let Some(out) = out {
        image::write(&recipe, out)?;
        println!("{name} is in {}", out.display());
        return Ok(());
    }
    let cluster = Cluster::open(dir)?;
    let path = cluster.dir.join("image.tar");
    image::write(&recipe, &path)?;
    let loaded = cluster.load(&path);
    std::fs::remove_file(&path)?;
    loaded?;
    println!("{name} is on {}", cluster.workers().join(", "));
    Ok(())
}
