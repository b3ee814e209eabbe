# Completion of ollama-openai-proxy for bash (4 or newer).
# Made from the table of options by tests/it/program/manual.

_ollama_openai_proxy() {
    local current=${COMP_WORDS[COMP_CWORD]} option='' words=()
    ((COMP_CWORD == 0)) || option=${COMP_WORDS[COMP_CWORD - 1]}
    if [ "$current" = = ]; then
        current=
    elif [ "$option" = = ] && ((COMP_CWORD > 1)); then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    case $option in
    --config | --proxy-api-keys-file | --state)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --api-key | --base-url | --host | --port | --origins | --proxy-api-keys | --request-timeout | --workers | --max-queue | --max-connections | --max-per-client | --max-body-bytes | --retry-max | --retry-initial-ms | --retry-max-ms | --models-ttl | --keep-alive | --context-length | --shutdown-grace)
        return
        ;;
    --profile) words=(auto openai azure ark dashscope deepseek gemini groq litellm llamacpp lmstudio localai minimax mistral moonshot ollama openrouter sglang tgi together vllm xai zai generic) ;;
    --log-level) words=(error warn info debug trace) ;;
    --log-format) words=(text json auto) ;;
    --log-bodies) words=(true false) ;;
    *)
        words=(
            --api-key
            --base-url
            --profile
            --config
            --host
            --port
            --origins
            --proxy-api-keys
            --proxy-api-keys-file
            --request-timeout
            --log-level
            --log-format
            --log-bodies
            --workers
            --max-queue
            --max-connections
            --max-per-client
            --max-body-bytes
            --retry-max
            --retry-initial-ms
            --retry-max-ms
            --models-ttl
            --keep-alive
            --context-length
            --state
            --shutdown-grace
            --check
            --json
            --healthcheck
            --help
            --version
        )
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "${words[*]}" -- "$current")
}

complete -F _ollama_openai_proxy ollama-openai-proxy
