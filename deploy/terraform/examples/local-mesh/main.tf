# A whole mesh on this machine: by default two regions, in each two edges and a core, and one geo-dns.

terraform {
  required_version = ">= 1.5"
}

locals {
  dns_region = sort(keys(var.regions))[0]
}

module "region" {
  source   = "../../modules/region-local"
  for_each = var.regions

  region     = each.key
  first_port = each.value
  edges      = var.edges
  cores      = var.cores
  dns        = each.key == local.dns_region
  dns_server = var.dns_server
  domain     = var.domain
  bin_dir    = abspath(var.bin_dir)
  certs_dir  = "${abspath(var.run_dir)}/certs"
  run_dir    = abspath(var.run_dir)
  model      = var.model

  relay_ranges  = var.relay_ranges
  nats_servers  = var.nats_servers
  nats_replicas = var.nats_replicas
}
