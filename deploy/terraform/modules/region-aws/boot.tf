# What an instance does when it starts for the first time. No secret is in it: it fetches those by the node's own rights.

locals {
  boot = {
    for name, node in local.nodes : name => templatefile("${path.module}/boot.sh.tftpl", {
      name          = name
      role          = node.role
      aws_region    = var.aws_region
      package       = lookup(var.packages, node.role, { url = "", sha256 = "" })
      model         = node.role == "core" ? var.model : null
      certificate   = lookup(var.certificates, name, "")
      api_token     = node.role == "core" ? var.api_token : null
      volume        = node.role == "core" ? aws_ebs_volume.core[name].id : ""
      address       = node.role == "dns" ? aws_eip.dns[name].allocation_id : ""
      public        = node.role == "dns" ? aws_eip.dns[name].public_ip : ""
      group         = "nearfield-${name}"
      drain_seconds = local.drain_seconds[node.role]
      settings = templatefile("${path.module}/node.toml.tftpl", {
        name          = name
        role          = node.role
        region        = var.region
        domain        = var.domain
        seeds         = var.seeds
        trust_domain  = var.trust_domain
        relay_ranges  = var.relay_ranges
        drain_seconds = local.drain_seconds[node.role]
      })
    })
  }
}
