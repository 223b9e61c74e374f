variable "region" {
  description = "The region's id, from the built-in table (geo/data/regions.csv) or your own."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]{1,32}$", var.region))
    error_message = "A region id is 1 to 32 of a-z, 0-9 and `-`, such as eu-central."
  }
}

variable "edges" {
  description = "How many edge nodes."
  type        = number
  default     = 2

  validation {
    condition     = var.edges >= 0 && var.edges <= 50
    error_message = "0 to 50 edges fit the region's block of 100 ports."
  }
}

variable "cores" {
  description = "How many core nodes. Each keeps its own meetings."
  type        = number
  default     = 1

  validation {
    condition     = var.cores >= 0 && var.cores <= 48
    error_message = "0 to 48 cores fit the region's block of 100 ports."
  }
}

variable "dns" {
  description = "Whether this region runs the mesh's geo-dns, at dns_server."
  type        = bool
  default     = false
}

variable "first_port" {
  description = "First of the region's block of 100 ports. Each node has one number: QUIC on UDP, HTTP on TCP."
  type        = number

  validation {
    condition     = var.first_port >= 1024 && var.first_port <= 65400
    error_message = "first_port is 1024 to 65400."
  }
}

variable "relay_ranges" {
  description = "Addresses that are not public and to which the edges go all the same ([egress] allow): of relays of your own."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for range in var.relay_ranges : can(cidrhost(range, 0))])
    error_message = "Each of relay_ranges is a range of addresses, such as 10.20.0.0/16."
  }
}

variable "domain" {
  description = "The DNS domain of the mesh: nodes join by SRV _nearfield._udp.<domain>."
  type        = string
}

variable "dns_server" {
  description = "Where geo-dns answers, ip:port."
  type        = string
}

variable "bin_dir" {
  description = "Folder of edge-node, core-node, geo-dns and nearfield."
  type        = string
}

variable "certs_dir" {
  description = "Folder of ca.pem, <node>.pem and <node>.key. Made by `nearfield certs` at each start, unless ca.pem is there without ca.key: then the certificates are yours."
  type        = string
}

variable "trust_domain" {
  description = "The host part of every SPIFFE id in those certificates."
  type        = string
  default     = "nearfield.internal"
}

variable "run_dir" {
  description = "Folder for each node's configuration, log, record of its process, and data."
  type        = string
}

variable "model" {
  description = "The Whisper model that cores use, in ggml format."
  type        = string
}

variable "nats_servers" {
  description = "NATS servers with JetStream that keep which core serves a meeting, such as nats://127.0.0.1:4222. Empty: each core's own store does."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for server in var.nats_servers : can(regex("^(nats|tls)://[^@/]+$", server))])
    error_message = "A server is nats://host:port or tls://host:port, without a password."
  }
}

variable "nats_bucket" {
  description = "The bucket there; the first core makes it."
  type        = string
  default     = "nearfield_leases"
}

variable "nats_replicas" {
  description = "How many of the servers keep the bucket when it is made."
  type        = number
  default     = 1

  validation {
    condition     = var.nats_replicas >= 1 && var.nats_replicas <= 5
    error_message = "1 to 5 servers can keep the bucket."
  }
}
