# bash completion for ckpt(1)

_ckpt_mount() {
  local i
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == --mount ]]; then
      printf '%s' "${COMP_WORDS[i + 1]}"
      return
    fi
  done
  if [[ -n ${CKPT_MOUNT:-} ]]; then
    printf '%s' "$CKPT_MOUNT"
    return
  fi
  local mount
  mount=$(awk '{ for (i = 7; i < NF; i++) if ($i == "-" && $(i + 1) == "fuse.ckptfs") { print $5; exit } }' \
    /proc/self/mountinfo 2>/dev/null)
  printf '%s' "${mount:-/ckpt}"
}

_ckpt_images() {
  local dir
  dir=$(_ckpt_mount)/images
  [[ -d $dir ]] && command ls -1 -- "$dir" 2>/dev/null
}

_ckpt_pids() {
  local dir
  for dir in /proc/[0-9]*; do
    [[ -O $dir || $EUID -eq 0 ]] && printf '%s\n' "${dir#/proc/}"
  done
}

_ckpt() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
  local commands='save restore ls log rm diff seal check gc stats' global='--mount --store --json --help --version'
  local command='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --mount | --store) ((i++)) ;;
      -*) ;;
      *)
        command=${COMP_WORDS[i]}
        break
        ;;
    esac
  done

  case $prev in
    --mount | --store)
      mapfile -t COMPREPLY < <(compgen -d -- "$cur")
      return
      ;;
    --name | -n | --option | -o | --every | --keep | --until) [[ $command == save || $command == restore ]] && return ;;
  esac

  local options=$global words='' files=no
  case $command in
    '') words=$commands ;;
    save)
      options+=' --name --exit --stop --no-sockets --every --keep --until --dry-run --option'
      words=$(_ckpt_pids)
      ;;
    restore)
      options+=' --foreground --stopped --lazy --option'
      words=$(_ckpt_images)
      files=yes
      ;;
    rm | log) words=$(_ckpt_images) ;;
    diff)
      words=$(_ckpt_images)
      files=yes
      ;;
    seal) files=yes ;;
    check)
      options+=' --kernel --full'
      words=$(_ckpt_images)
      files=yes
      ;;
    gc) options+=' --dry-run' ;;
  esac

  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    return
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
  if [[ $files == yes ]]; then
    compopt -o filenames 2>/dev/null
    local dirs
    mapfile -t dirs < <(compgen -d -- "$cur")
    COMPREPLY+=("${dirs[@]}")
  fi
}

complete -F _ckpt ckpt
