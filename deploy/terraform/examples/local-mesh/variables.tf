variable "regions" {
  description = "Regions and the first of the 100 ports that each has on this machine. The first in order of ids runs geo-dns."
  type        = map(number)
  default     = { eu-central = 14400, ap-northeast = 14500 }
}

variable "edges" {
  description = "Edge nodes in each region."
  type        = number
  default     = 2
}

variable "cores" {
  description = "Core nodes in each region."
  type        = number
  default     = 1
}

variable "dns_server" {
  description = "Where geo-dns answers."
  type        = string
  default     = "127.0.0.1:14353"
}

variable "domain" {
  description = "The DNS domain of the mesh."
  type        = string
  default     = "mesh.nearfield.internal"
}

variable "bin_dir" {
  description = "Folder of the programs; `cargo build --release --bins` makes the default one."
  type        = string
  default     = "../../../../target/release"
}

variable "model" {
  description = "The Whisper model; `./dev model` makes the default one."
  type        = string
  default     = "../../../../.cache/models/ggml-tiny.en-q8_0.bin"
}

variable "run_dir" {
  description = "Folder for certificates, configurations, logs and data."
  type        = string
  default     = "run"
}

variable "nats_servers" {
  description = "NATS servers with JetStream that keep which core serves a meeting. Empty: each core's own store does."
  type        = list(string)
  default     = []
}

variable "nats_replicas" {
  description = "How many of the servers keep that when it is first written."
  type        = number
  default     = 1
}

variable "relay_ranges" {
  description = "Addresses that are not public and to which the edges go all the same: relays on this machine."
  type        = list(string)
  default     = ["127.0.0.0/8"]
}
