variable "region" {
  description = "The region's id in the mesh, from the built-in table (geo/data/regions.csv) or your own."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]{1,32}$", var.region))
    error_message = "region is 1 to 32 of a-z, 0-9 and `-`, such as eu-central."
  }
}

variable "aws_region" {
  description = "Amazon's region that it runs in."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.aws_region))
    error_message = "aws_region is such as eu-central-1."
  }
}

variable "zones" {
  description = "The two availability zones of that region that nodes are spread over. Absent: its `a` and `b`."
  type        = list(string)
  default     = null

  validation {
    condition     = var.zones == null || try(length(distinct(var.zones)) == 2 && alltrue([for zone in var.zones : startswith(zone, var.aws_region)]), false)
    error_message = "zones are two different ones of aws_region."
  }
}

variable "edges" {
  description = "How many edge nodes."
  type        = number
  default     = 2

  validation {
    condition     = var.edges >= 0 && var.edges <= 50 && floor(var.edges) == var.edges
    error_message = "edges is a whole number from 0 to 50."
  }
}

variable "cores" {
  description = "How many core nodes. Each keeps its own meetings, on a disk that outlives the instance."
  type        = number
  default     = 1

  validation {
    condition     = var.cores >= 0 && var.cores <= 48 && floor(var.cores) == var.cores
    error_message = "cores is a whole number from 0 to 48."
  }
}

variable "dns" {
  description = "Whether this region runs one of the mesh's DNS nodes, on an address that stays."
  type        = bool
  default     = false
}

variable "domain" {
  description = "The DNS domain of the mesh: nodes join by SRV _nearfield._udp.<domain>."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain)) && length(var.domain) <= 140
    error_message = "domain is a DNS name of at most 140 bytes in small letters, such as mesh.example.com."
  }
}

variable "seeds" {
  description = "Nodes to join through besides, host:port: until the domain is delegated to the mesh's DNS nodes."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for seed in var.seeds : can(regex("^[^:\" ]+:[0-9]{1,5}$", seed))])
    error_message = "Each of seeds is host:port."
  }
}

variable "trust_domain" {
  description = "The host part of every SPIFFE id in the certificates."
  type        = string
  default     = "nearfield.internal"

  validation {
    condition     = can(regex("^[a-z0-9.-]+$", var.trust_domain))
    error_message = "trust_domain has a-z, 0-9, `-` and `.` only."
  }
}

variable "certificates" {
  description = "For each node (edge-<region>-1, core-<region>-1, dns-<region>-1) the ARN of a secret of Secrets Manager that you made: a JSON object of `ca`, `cert` and `key`, each PEM. The secret itself never comes near Terraform."
  type        = map(string)

  validation {
    condition     = alltrue([for arn in values(var.certificates) : can(regex("^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+$", arn))])
    error_message = "Each of certificates is the ARN of a secret of Secrets Manager."
  }

  validation {
    condition = length(setsubtract(concat(
      [for n in range(var.edges) : "edge-${var.region}-${n + 1}"],
      [for n in range(var.cores) : "core-${var.region}-${n + 1}"],
      [for n in range(var.dns ? 1 : 0) : "dns-${var.region}-1"],
    ), keys(var.certificates))) == 0
    error_message = "certificates lacks a node: it needs edge-<region>-1 to the number of edges, and so on for cores and dns."
  }
}

variable "api_token" {
  description = "ARN of the secret of Secrets Manager whose text is the API's bearer token. Needed where there are cores."
  type        = string
  default     = null

  validation {
    condition     = var.api_token == null ? var.cores == 0 : can(regex("^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+$", var.api_token))
    error_message = "api_token is the ARN of a secret of Secrets Manager; it may be left out only where there are no cores."
  }
}

variable "packages" {
  description = "Where the Debian package of each role (edge, core, dns) is, and its SHA-256 (SHA256SUMS of the release)."
  type        = map(object({ url = string, sha256 = string }))

  validation {
    condition     = alltrue([for package in values(var.packages) : can(regex("^https://[^ '\"]+$", package.url))])
    error_message = "Each url of packages begins with https://."
  }

  validation {
    condition     = alltrue([for package in values(var.packages) : can(regex("^[0-9a-f]{64}$", package.sha256))])
    error_message = "Each sha256 of packages is 64 hexadecimal digits."
  }

  validation {
    condition     = length(setsubtract(concat(var.edges > 0 ? ["edge"] : [], var.cores > 0 ? ["core"] : [], var.dns ? ["dns"] : []), keys(var.packages))) == 0
    error_message = "packages lacks a role that has nodes: edge, core or dns."
  }
}

variable "model" {
  description = "Where the Whisper model of the cores is (ggml), and its SHA-256. Needed where there are cores."
  type        = object({ url = string, sha256 = string })
  default     = null

  validation {
    condition     = var.model == null ? var.cores == 0 : can(regex("^https://[^ '\"]+$", var.model.url)) && can(regex("^[0-9a-f]{64}$", var.model.sha256))
    error_message = "model has a url that begins with https:// and a sha256 of 64 hexadecimal digits; it may be left out only where there are no cores."
  }
}

variable "ami" {
  description = "The image of Debian 12 that instances begin with. Absent: Debian's newest for amd64."
  type        = string
  default     = null

  validation {
    condition     = var.ami == null || can(regex("^ami-[0-9a-f]+$", var.ami))
    error_message = "ami is such as ami-0123456789abcdef0."
  }
}

variable "instance_types" {
  description = "Amazon's kind of machine for each role."
  type        = object({ edge = optional(string, "c7i.large"), core = optional(string, "c7i.xlarge"), dns = optional(string, "t3.small") })
  default     = {}

  validation {
    condition     = alltrue([for kind in values(var.instance_types) : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", kind))])
    error_message = "Each of instance_types is such as c7i.large."
  }
}

variable "spot" {
  description = "Whether edges are spot instances. They drain in the two minutes before they are taken."
  type        = bool
  default     = false
}

variable "core_gigabytes" {
  description = "The size of each core's disk."
  type        = number
  default     = 40

  validation {
    condition     = var.core_gigabytes >= 10 && var.core_gigabytes <= 16384
    error_message = "core_gigabytes is 10 to 16384."
  }
}

variable "kms_key" {
  description = "ARN of the key that disks are encrypted with. Absent: the account's own for EBS. Its policy must let the scaling groups' service role use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key))
    error_message = "kms_key is the ARN of a key of KMS."
  }
}

variable "cidr" {
  description = "The network's IPv4 range. IPv6 comes from Amazon."
  type        = string
  default     = "10.80.0.0/20"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && try(tonumber(split("/", var.cidr)[1]) <= 24, false)
    error_message = "cidr is an IPv4 range of /24 or larger."
  }
}

variable "api_ranges" {
  description = "Who may reach the cores' API, which is plain HTTP: load balancers that end TLS, networks of your own."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for range in var.api_ranges : can(cidrhost(range, 0)) && !endswith(range, "/0")])
    error_message = "Each of api_ranges is a range of addresses, and none is the whole Internet: the API is plain HTTP."
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

variable "alarm_topic" {
  description = "ARN of the SNS topic that is told of alarms. Absent: they are only shown."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_topic == null || can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:.+$", var.alarm_topic))
    error_message = "alarm_topic is the ARN of a topic of SNS."
  }
}

variable "tags" {
  description = "Tags of everything, for the bill. `Name`, `nearfield:region`, `nearfield:role` and `nearfield:node` are added."
  type        = map(string)
  default     = {}
}
