import java.io.IOException;
import java.io.Reader;
import java.util.*;
import java.util.function.*;
import java.util.regex.Pattern;
import org.apache.lucene.analysis.*;
import org.apache.lucene.analysis.LowerCaseFilter;
import org.apache.lucene.analysis.charfilter.HTMLStripCharFilter;
import org.apache.lucene.analysis.core.*;
import org.apache.lucene.analysis.email.UAX29URLEmailTokenizer;
import org.apache.lucene.analysis.en.*;
import org.apache.lucene.analysis.miscellaneous.*;
import org.apache.lucene.analysis.ngram.*;
import org.apache.lucene.analysis.pattern.PatternCaptureGroupTokenFilter;
import org.apache.lucene.analysis.snowball.SnowballFilter;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.index.analysis.*;
import org.elasticsearch.index.analysis.CharFilterFactory;
import org.elasticsearch.index.analysis.TokenFilterFactory;
import org.elasticsearch.index.analysis.TokenizerFactory;
import org.elasticsearch.indices.analysis.AnalysisModule.AnalysisProvider;
import org.elasticsearch.indices.analysis.PreBuiltCacheFactory.CachingStrategy;
import org.elasticsearch.plugins.AnalysisPlugin;
import org.elasticsearch.plugins.Plugin;
import org.tartarus.snowball.ext.EnglishStemmer;

/** Stands in for a part of the module analysis-common: Lucene's own English analysis under Elasticsearch's names. */
public class EnglishAnalysis extends Plugin implements AnalysisPlugin {
    @Override public Map<String, AnalysisProvider<AnalyzerProvider<? extends Analyzer>>> getAnalyzers() {
        return Map.of("english", (index, env, name, settings) -> analyzer(name,
            "_none_".equals(settings.get("stopwords"))
                ? new EnglishAnalyzer(CharArraySet.EMPTY_SET) : new EnglishAnalyzer()));
    }

    @Override public List<PreBuiltAnalyzerProviderFactory> getPreBuiltAnalyzerProviderFactories() {
        return List.of(new PreBuiltAnalyzerProviderFactory("english", CachingStrategy.LUCENE, EnglishAnalyzer::new));
    }

    @Override public Map<String, AnalysisProvider<TokenFilterFactory>> getTokenFilters() {
        Map<String, AnalysisProvider<TokenFilterFactory>> filters = new TreeMap<>();
        filters.put("stemmer", (index, env, name, settings) -> {
            String language = settings.get("language", settings.get("name", "english"));
            return new Filter(name, in -> stem(language, in));
        });
        filters.put("asciifolding", (index, env, name, settings) -> {
            boolean keep = settings.getAsBoolean("preserve_original", false);
            return new Filter(name, in -> new ASCIIFoldingFilter(in, keep));
        });
        filters.put("edge_ngram", (index, env, name, settings) -> {
            int min = min(settings), max = max(settings);
            return new Filter(name, in -> new EdgeNGramTokenFilter(in, min, max, false));
        });
        filters.put("ngram", (index, env, name, settings) -> {
            int min = min(settings), max = max(settings);
            return new Filter(name, in -> new NGramTokenFilter(in, min, max, false));
        });
        filters.put("pattern_capture", (index, env, name, settings) -> {
            boolean keep = settings.getAsBoolean("preserve_original", true);
            Pattern[] patterns = settings.getAsList("patterns").stream().map(Pattern::compile).toArray(Pattern[]::new);
            return new Filter(name, in -> new PatternCaptureGroupTokenFilter(in, keep, patterns));
        });
        filters.put("unique", (index, env, name, settings) -> new Filter(name, Unique::new));
        filters.put("lowercase", (index, env, name, settings) -> new Filter(name, LowerCaseFilter::new));
        return filters;
    }

    @Override public List<PreConfiguredTokenFilter> getPreConfiguredTokenFilters() {
        return List.of(PreConfiguredTokenFilter.singleton("asciifolding", true, ASCIIFoldingFilter::new),
            PreConfiguredTokenFilter.singleton("porter_stem", false, PorterStemFilter::new),
            PreConfiguredTokenFilter.singleton("kstem", false, KStemFilter::new),
            PreConfiguredTokenFilter.singleton("trim", true, TrimFilter::new),
            PreConfiguredTokenFilter.singleton("unique", false, Unique::new));
    }

    @Override public Map<String, AnalysisProvider<TokenizerFactory>> getTokenizers() {
        return Map.of(
            "whitespace", (index, env, name, settings) -> TokenizerFactory.newFactory(name, WhitespaceTokenizer::new),
            "uax_url_email",
            (index, env, name, settings) -> TokenizerFactory.newFactory(name, UAX29URLEmailTokenizer::new),
            "keyword", (index, env, name, settings) -> TokenizerFactory.newFactory(name, KeywordTokenizer::new),
            "edge_ngram", (index, env, name, settings) -> {
                int min = min(settings), max = max(settings);
                return TokenizerFactory.newFactory(name, () -> new EdgeNGramTokenizer(min, max));
            });
    }

    @Override public List<PreConfiguredTokenizer> getPreConfiguredTokenizers() {
        return List.of(PreConfiguredTokenizer.singleton("keyword", KeywordTokenizer::new),
            PreConfiguredTokenizer.singleton("whitespace", WhitespaceTokenizer::new),
            PreConfiguredTokenizer.singleton("uax_url_email", UAX29URLEmailTokenizer::new));
    }

    @Override public Map<String, AnalysisProvider<CharFilterFactory>> getCharFilters() {
        return Map.of("html_strip", (index, env, name, settings) -> new CharFilterFactory() {
            public String name() { return name; }
            public Reader create(Reader reader) { return new HTMLStripCharFilter(reader); }
        });
    }

    static int min(Settings settings) { return settings.getAsInt("min_gram", 1); }

    static int max(Settings settings) { return settings.getAsInt("max_gram", 2); }

    static TokenStream stem(String language, TokenStream in) {
        return switch (language) {
            case "english" -> new PorterStemFilter(in);
            case "light_english", "kstem" -> new KStemFilter(in);
            case "porter2" -> new SnowballFilter(in, new EnglishStemmer());
            case "possessive_english" -> new EnglishPossessiveFilter(in);
            case "minimal_english" -> new EnglishMinimalStemFilter(in);
            default -> throw new IllegalArgumentException("stemmer language not in this test node: " + language);
        };
    }

    static AnalyzerProvider<Analyzer> analyzer(String name, Analyzer analyzer) {
        return new AnalyzerProvider<>() {
            public String name() { return name; }
            public AnalyzerScope scope() { return AnalyzerScope.INDEX; }
            public Analyzer get() { return analyzer; }
        };
    }

    record Filter(String name, UnaryOperator<TokenStream> wrap) implements NormalizingTokenFilterFactory {
        public TokenStream create(TokenStream in) { return wrap.apply(in); }
    }

    static class Unique extends FilteringTokenFilter {
        final Set<String> seen = new HashSet<>();
        final CharTermAttribute term = addAttribute(CharTermAttribute.class);

        Unique(TokenStream in) { super(in); }

        @Override protected boolean accept() { return seen.add(term.toString()); }

        @Override public void reset() throws IOException { super.reset(); seen.clear(); }
    }
}
