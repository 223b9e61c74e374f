# One region of a mesh as processes on this machine: edges, cores, and geo-dns in one of the regions.
# Needs no provider but the one built into Terraform.

terraform {
  required_version = ">= 1.5"
}

locals {
  roles = concat(
    [for n in range(var.edges) : { role = "edge", name = "edge-${var.region}-${n + 1}" }],
    [for n in range(var.cores) : { role = "core", name = "core-${var.region}-${n + 1}" }],
    [for n in range(var.dns ? 1 : 0) : { role = "dns", name = "dns-${var.region}-1" }],
  )
  # Edges have the first half of the block, cores the second, DNS the last: adding a node moves no other.
  first = { edge = 0, core = 50, dns = 99 }
  nodes = {
    for node in local.roles : node.name => {
      role    = node.role
      binary  = "${var.bin_dir}/${node.role == "dns" ? "geo-dns" : "${node.role}-node"}"
      address = "127.0.0.1:${var.first_port + local.first[node.role] + tonumber(regex("[0-9]+$", node.name)) - 1}"
    }
  }

  configs = {
    for name, node in local.nodes : name => templatefile("${path.module}/node.toml.tftpl", {
      name         = name
      role         = node.role
      region       = var.region
      address      = node.address
      domain       = var.domain
      dns_server   = var.dns_server
      certs_dir    = abspath(var.certs_dir)
      trust_domain = var.trust_domain
      store        = "${abspath(var.run_dir)}/${name}.redb"
      model        = abspath(var.model)
      relay_ranges = var.relay_ranges

      nats_servers  = var.nats_servers
      nats_bucket   = var.nats_bucket
      nats_replicas = var.nats_replicas
    })
  }

  # What node.sh wrote of each process, `STATE GENERATION PID START`, what the kernel says of that process now (proc(5):
  # after the last `)` come the state, and nineteen fields on the start time), and the record once more: while
  # Terraform replaces one node it looks at all of them, and may look just as a process ends or begins.
  processes = { for name, node in local.nodes : name => "${abspath(var.run_dir)}/${name}.process" }
  first_look = {
    for name, path in local.processes : name => try(split(" ", trimspace(file(path))), local.never_started)
  }
  kernel = {
    for name, record in local.first_look :
    name => try(split(" ", trimspace(reverse(split(")", file("/proc/${record[2]}/stat")))[0])), [])
  }
  second_look = {
    for name, stat in local.kernel : name => try(split(" ", trimspace(file(local.processes[name]))), local.never_started)
  }
  # Without a record, that of a node which is to be started anew, in a generation that it was never started in.
  never_started = ["stopped", formatdate("YYYYMMDDhhmmss", plantimestamp()), "-", "-"]

  # A node is well that was stopped on purpose, was started between the looks, or still is the process it was.
  well = {
    for name, record in local.second_look : name => (
      record[0] == "stopped"
      || record[2] != local.first_look[name][2]
      || try(local.kernel[name][0] != "Z" && local.kernel[name][19] == record[3], false)
    )
  }
  # One more than recorded asks Terraform to replace the node.
  generations = {
    for name, record in local.second_look : name => tonumber(record[1]) + (local.well[name] ? 0 : 1)
  }
}

# Destroyed after all nodes: it stops what still runs of them without Terraform's knowing. (A node whose apply was interrupted has
# no destroy provisioner run.)
resource "terraform_data" "region" {
  input = {
    script = abspath("${path.module}/node.sh")
    dir    = abspath(var.run_dir)
    region = var.region
  }

  provisioner "local-exec" {
    when    = destroy
    command = "\"$SCRIPT\" sweep \"$DIR\" \"$REGION\""
    environment = {
      SCRIPT = self.input.script
      DIR    = self.input.dir
      REGION = self.input.region
    }
  }
}

resource "terraform_data" "node" {
  for_each   = local.nodes
  depends_on = [terraform_data.region]

  input = {
    script = abspath("${path.module}/node.sh")
    prefix = "${abspath(var.run_dir)}/${each.key}"
  }
  triggers_replace = [each.value.binary, local.configs[each.key], local.generations[each.key]]

  # A typing error ends the plan, before any node is drained for what cannot be started. `destroy` does not ask.
  lifecycle {
    precondition {
      condition     = fileexists(each.value.binary) && fileexists("${var.bin_dir}/nearfield")
      error_message = "bin_dir = ${var.bin_dir} does not hold ${basename(each.value.binary)} and nearfield: `cargo build --release --bins` makes them in target/release."
    }
    precondition {
      condition     = each.value.role != "core" || fileexists(var.model)
      error_message = "model = ${var.model} is not there: `./dev model` fetches one."
    }
  }

  provisioner "local-exec" {
    command = "\"$SCRIPT\" start \"$PREFIX\" \"$BINARY\" \"$ADDRESS\" \"$GENERATION\""
    environment = {
      SCRIPT     = self.input.script
      PREFIX     = self.input.prefix
      BINARY     = abspath(each.value.binary)
      ADDRESS    = each.value.address
      GENERATION = local.generations[each.key]
      CONFIG     = local.configs[each.key]
      NEARFIELD  = abspath("${var.bin_dir}/nearfield")
      CERTS      = abspath(var.certs_dir)
      IDENTITY   = "${each.key}:${each.value.role}:${var.region}"
      TRUST      = var.trust_domain
    }
  }

  provisioner "local-exec" {
    when    = destroy
    command = "\"$SCRIPT\" stop \"$PREFIX\""
    environment = {
      SCRIPT = self.input.script
      PREFIX = self.input.prefix
    }
  }
}
